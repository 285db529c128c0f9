//! The memory one worker shares with the daemon, handed out in blocks.
//!
//! Only the daemon allocates, and what is free is known only here, in private memory: a worker cannot make two
//! blocks overlap. The lowest free place is taken, so that little memory is touched; when nothing is lent any more,
//! what a burst has touched beyond [`KEEP`] goes back to the system.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{ALIGNMENT, BufferMut, Memory, Storage, StorageMut};
use rustix::fs::{FallocateFlags, fallocate};

use crate::Error;
use crate::segment::Segment;

/// Touched memory that stays when the arena is idle.
const KEEP: usize = 8 << 20;
/// Giving memory back and touching it anew costs more than keeping it.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Arena {
    segment: Segment,
    file: OwnedFd,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    /// Start to length, neighbours joined.
    ranges: BTreeMap<usize, usize>,
    lent: usize,
    /// No byte from here on was ever lent since the last trim.
    touched: usize,
    trimmed: Instant,
}

impl Arena {
    pub(crate) fn new(len: usize) -> Result<Self, Error> {
        let len = len.next_multiple_of(ALIGNMENT);
        let (segment, file) = Segment::create("mast-arena", len)?;
        let ranges = (len > 0).then_some((0, len)).into_iter().collect();
        let free = Free { ranges, lent: 0, touched: 0, trimmed: Instant::now() };
        Ok(Self { segment, file, free: Mutex::new(free) })
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Bytes of it that take memory now, whoever has touched them.
    pub(crate) fn resident_bytes(&self) -> Option<u64> {
        let blocks = rustix::fs::fstat(&self.file).ok()?.st_blocks;
        u64::try_from(blocks).ok()?.checked_mul(512)
    }

    /// Where `bytes` lie in the arena, if they do.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        self.segment.offset_of(bytes)
    }

    /// A block with room for `len` bytes; `None` when there is none. What was in it before still is.
    pub(crate) fn lend(self: &Arc<Self>, len: usize) -> Option<Block> {
        if len == 0 {
            return None;
        }
        let room = len.checked_next_multiple_of(ALIGNMENT)?;
        let mut free = self.lock();
        let (start, found) = free.ranges.iter().find(|(_, found)| **found >= room).map(|(s, f)| (*s, *f))?;
        free.ranges.remove(&start);
        if found > room {
            free.ranges.insert(start + room, found - room);
        }
        free.lent += 1;
        free.touched = free.touched.max(start + room);
        Some(Block { arena: Arc::clone(self), start, len, room })
    }

    fn give_back(&self, start: usize, room: usize) {
        let mut free = self.lock();
        let (mut start, mut room) = (start, room);
        if let Some((before, len)) = free.ranges.range(..start).next_back().map(|(s, l)| (*s, *l))
            && before + len == start
        {
            (start, room) = (before, room + len);
        }
        if let Some(len) = free.ranges.remove(&(start + room)) {
            room += len;
        }
        free.ranges.insert(start, room);
        free.lent = free.lent.saturating_sub(1);
        if free.lent == 0 && free.touched > KEEP && free.trimmed.elapsed() >= TRIM_INTERVAL {
            self.trim(&mut free);
        }
    }

    /// Under the lock: nothing is lent.
    fn trim(&self, free: &mut Free) {
        let bytes = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = free.touched.saturating_sub(KEEP);
        if let Err(error) = fallocate(&self.file, hole, bytes(KEEP), bytes(len)) {
            tracing::debug!(%error, "idle shared memory stays");
        }
        free.touched = KEEP;
        free.trimmed = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the arena that one owner has until it is dropped.
#[derive(Debug)]
pub(crate) struct Block {
    arena: Arc<Arena>,
    start: usize,
    len: usize,
    room: usize,
}

impl Block {
    /// Offsets in the arena.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    #[allow(unsafe_code)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the allocator lends a range to one block at a time, and the block is borrowed for writing. Offsets
        // of a block reach the worker only with a run, when its inputs are frozen.
        unsafe { self.arena.segment.bytes_mut(self.range()) }.unwrap_or_default()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.give_back(self.start, self.room);
    }
}

impl Storage for Block {
    fn bytes(&self) -> &[u8] {
        self.arena.segment.bytes(self.range()).unwrap_or_default()
    }
}

impl StorageMut for Block {
    fn bytes_mut(&mut self) -> &mut [u8] {
        Block::bytes_mut(self)
    }

    fn len(&self) -> usize {
        self.len
    }

    fn freeze(self: Box<Self>) -> Arc<dyn Storage> {
        Arc::from(self as Box<dyn Storage>)
    }
}

/// The arena as the memory of an engine.
#[derive(Debug)]
pub(crate) struct ArenaMemory(pub(crate) Arc<Arena>);

impl Memory for ArenaMemory {
    fn allocate(&self, len: usize) -> BufferMut {
        match self.0.lend(len) {
            Some(mut block) => {
                // Another request's bytes may still be here.
                block.bytes_mut().fill(0);
                BufferMut::from_storage(Box::new(block))
            }
            None => BufferMut::heap(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn free(arena: &Arena) -> Vec<(usize, usize)> {
        arena.lock().ranges.iter().map(|(start, len)| (*start, *len)).collect()
    }

    #[test]
    fn a_new_owner_sees_zeros() {
        let arena = Arc::new(Arena::new(4096).unwrap());
        let memory = ArenaMemory(Arc::clone(&arena));
        let mut first = memory.allocate(100);
        first.bytes_mut().fill(7);
        let first = first.freeze();
        assert_eq!(arena.offset_of(first.bytes()), Some(0));
        drop(first);
        assert_eq!(memory.allocate(4096).bytes_mut(), [0; 4096]);
    }

    #[test]
    fn what_has_no_room_is_on_the_heap() {
        let arena = Arc::new(Arena::new(128).unwrap());
        let memory = ArenaMemory(Arc::clone(&arena));
        let held = memory.allocate(128);
        let heap = memory.allocate(1).freeze();
        assert!(arena.offset_of(heap.bytes()).is_none() && heap.bytes() == [0]);
        drop(held);
        assert!(memory.allocate(0).is_empty());
        assert_eq!(free(&arena), [(0, 128)]);
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_all_comes_back(
            steps in proptest::collection::vec((0_usize..3000, any::<prop::sample::Index>(), any::<bool>()), 1..80)
        ) {
            let arena = Arc::new(Arena::new(16 << 10).unwrap());
            let mut held: Vec<Block> = Vec::new();
            for (len, which, lend) in steps {
                if lend {
                    held.extend(arena.lend(len));
                } else if !held.is_empty() {
                    drop(held.swap_remove(which.index(held.len())));
                }
                let mut ranges: Vec<_> = held.iter().map(|block| (block.start, block.start + block.room)).collect();
                ranges.extend(free(&arena).into_iter().map(|(start, len)| (start, start + len)));
                ranges.sort_unstable();
                prop_assert_eq!(ranges.first().map(|range| range.0), Some(0));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "{:?}", ranges);
                prop_assert_eq!(ranges.last().map(|range| range.1), Some(16 << 10));
                prop_assert!(held.iter().all(|block| block.start % ALIGNMENT == 0));
            }
            held.clear();
            prop_assert_eq!(free(&arena), [(0, 16 << 10)]);
        }
    }
}
