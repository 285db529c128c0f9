use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Tensors start at this many bytes, so that every engine can read them in place.
pub const ALIGNMENT: usize = 64;

/// Memory that a backend owns: heap, pinned host memory, a mapped memfd, a runtime's own output.
pub trait Storage: Send + Sync {
    /// The whole memory. It must stay where it is as long as the storage lives, and nobody of this process may write
    /// it.
    fn bytes(&self) -> &[u8];
}

/// Bytes of a tensor, shared by reference count. Cloning and slicing copy nothing.
#[derive(Clone)]
pub struct Buffer {
    storage: Arc<dyn Storage>,
    range: Range<usize>,
}

impl Buffer {
    /// Shares the whole of `storage`.
    pub fn from_storage(storage: Arc<dyn Storage>) -> Self {
        let range = 0..storage.bytes().len();
        Self { storage, range }
    }

    /// Copies `bytes` into aligned heap memory.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buffer = BufferMut::heap(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer.freeze()
    }

    pub fn bytes(&self) -> &[u8] {
        self.storage.bytes().get(self.range.clone()).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The bytes `range` of this buffer, sharing the memory; `None` when it reaches outside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        (range.start <= range.end && range.end <= self.len()).then(|| Self {
            storage: Arc::clone(&self.storage),
            range: self.range.start + range.start..self.range.start + range.end,
        })
    }
}

impl fmt::Debug for Buffer {
    /// Never the bytes: a payload must not reach a log by way of Debug.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

/// Memory of a backend that one owner may still write. It may be lent to a process that shares the mapping, so
/// what was written is not promised to stay: whoever must rely on a value copies it first.
pub trait StorageMut: Send {
    fn bytes_mut(&mut self) -> &mut [u8];

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the writing.
    fn freeze(self: Box<Self>) -> Arc<dyn Storage>;
}

/// A buffer that has one owner and can be written; [`BufferMut::freeze`] makes it a [`Buffer`].
pub struct BufferMut(Memory);

enum Memory {
    Heap(Heap),
    Backend(Box<dyn StorageMut>),
}

impl BufferMut {
    /// Zeroed heap memory at [`ALIGNMENT`].
    pub fn heap(len: usize) -> Self {
        let memory = vec![0_u8; len + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self(Memory::Heap(Heap { memory, start, len }))
    }

    /// Memory of a backend, aligned to [`ALIGNMENT`].
    pub fn from_storage(storage: Box<dyn StorageMut>) -> Self {
        Self(Memory::Backend(storage))
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(Heap { memory, start, len }) => {
                memory.get_mut(*start..*start + *len).unwrap_or_default()
            }
            Memory::Backend(storage) => storage.bytes_mut(),
        }
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Memory::Heap(heap) => heap.len,
            Memory::Backend(storage) => storage.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn freeze(self) -> Buffer {
        Buffer::from_storage(match self.0 {
            Memory::Heap(heap) => Arc::new(heap),
            Memory::Backend(storage) => storage.freeze(),
        })
    }
}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferMut({} bytes)", self.len())
    }
}

/// A `Vec` never moves its heap block while it is not resized, so the aligned offset stays aligned.
struct Heap {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Storage for Heap {
    fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.start + self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heap_is_aligned_and_sliceable() {
        for len in [0, 1, 63, 64, 65, 110_592] {
            let mut buffer = BufferMut::heap(len);
            assert_eq!(buffer.bytes_mut().len(), len);
            assert_eq!(buffer.bytes_mut().as_ptr().align_offset(ALIGNMENT), 0, "len {len}");
            let buffer = buffer.freeze();
            assert!(buffer.slice(0..len).is_some() && buffer.slice(0..len + 1).is_none());
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        assert_eq!(format!("{:?}", Buffer::copy_from(b"secret")), "Buffer(6 bytes)");
    }
}
