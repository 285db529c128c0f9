//! A sealed memfd, mapped. Its length cannot change any more, so no access inside it can fault.

#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Error;

/// Bytes that the daemon and one worker both map. Either may write at any time: what is read here is a value and
/// nothing else, never a length, and two reads of it may differ.
#[derive(Debug)]
pub(crate) struct Segment {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is unmapped once, by the last owner.
unsafe impl Send for Segment {}
// SAFETY: as above. Within this process a range has one writer or only readers: `bytes_mut` is unsafe, and its callers
// own the range (an arena block, a place lent for a run).
unsafe impl Sync for Segment {}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

impl Segment {
    /// Zeroed memory of `len` bytes and the file that another process maps it from.
    pub(crate) fn create(name: &str, len: usize) -> Result<(Self, OwnedFd), Error> {
        let made = || {
            let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&file, u64::try_from(len).map_err(|_| Errno::FBIG)?)?;
            fcntl_add_seals(&file, SEALS)?;
            Ok((Self::map_checked(&file, len)?, file))
        };
        made().map_err(|error: Errno| Error::Memory(error.into()))
    }

    /// The memory behind a file that the other end made.
    pub(crate) fn map(file: impl AsFd) -> Result<Self, Error> {
        let map = || {
            let len = usize::try_from(fstat(&file)?.st_size).map_err(|_| Errno::FBIG)?;
            if !fcntl_get_seals(&file)?.contains(SEALS) {
                return Err(Errno::INVAL);
            }
            Self::map_checked(&file, len)
        };
        map().map_err(|error: Errno| Error::Memory(error.into()))
    }

    /// `file` is sealed and has `len` bytes.
    fn map_checked(file: impl AsFd, len: usize) -> Result<Self, Errno> {
        if len == 0 {
            return Ok(Self { start: NonNull::dangling(), len });
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that cannot shrink.
        let start = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, len })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// `None` when the range reaches outside.
    pub(crate) fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        let len = self.check(&range)?;
        // SAFETY: the range is inside the mapping, which lives as long as `self`. The other process may write it;
        // readers take each byte for a value only (the type's doc).
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(range.start), len) })
    }

    /// # Safety
    /// Nobody else in this process reads or writes the range while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "the caller owns the range, not the segment")]
    pub(crate) unsafe fn bytes_mut(&self, range: Range<usize>) -> Option<&mut [u8]> {
        let len = self.check(&range)?;
        // SAFETY: the range is inside the mapping, and the caller is its only user here.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(range.start), len) })
    }

    /// Copies `bytes` to `offset`, as far as they fit; for memory that nobody else has yet.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) {
        // SAFETY: `self` is borrowed for writing, so no other slice of this mapping lives.
        let place = unsafe { self.bytes_mut(offset..offset.saturating_add(bytes.len())) };
        if let Some(place) = place {
            place.copy_from_slice(bytes);
        }
    }

    /// Where `bytes` start in this segment, when all of them lie in it.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let offset = bytes.as_ptr().addr().checked_sub(self.start.addr().get())?;
        (bytes.len() <= self.len.checked_sub(offset)?).then_some(offset)
    }

    fn check(&self, range: &Range<usize>) -> Option<usize> {
        let len = range.end.checked_sub(range.start)?;
        (range.end <= self.len).then_some(len)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: mapped by `map_checked` with this length and unmapped once, here; no slice outlives `self`.
            if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
                tracing::error!(%error, "cannot unmap shared memory");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_are_one_memory() {
        let (ours, file) = Segment::create("test", 100).unwrap();
        let theirs = Segment::map(&file).unwrap();
        // SAFETY: the only slice of this range.
        unsafe { ours.bytes_mut(10..14) }.unwrap().copy_from_slice(b"mast");
        assert_eq!(theirs.bytes(10..14).unwrap(), b"mast");
        assert_eq!(theirs.len(), 100);
        for (start, end) in [(0, 101), (5, 4), (101, 101), (usize::MAX, 0)] {
            assert!(theirs.bytes(Range { start, end }).is_none(), "{start}..{end}");
        }
        assert_eq!(ours.offset_of(ours.bytes(7..9).unwrap()), Some(7));
        assert_eq!(ours.offset_of(theirs.bytes(7..9).unwrap()), None);
        assert_eq!(ours.offset_of(b"elsewhere"), None);
    }

    #[test]
    fn the_length_is_sealed() {
        let (_, file) = Segment::create("test", 4096).unwrap();
        assert!(ftruncate(&file, 0).is_err() && ftruncate(&file, 8192).is_err());
        let unsealed = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        assert!(Segment::map(&unsealed).is_err());
    }
}
