mod faults;
mod memory;
mod model;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Opened, Stream, StreamConfig};
use memory::MemoryDisk;

/// Small enough that a few dozen records meet every limit.
fn small() -> StreamConfig {
    StreamConfig {
        segment_bytes: 1024,
        quota_bytes: 8 * 1024,
        reserve_bytes: 512,
        record_limit_bytes: 512,
        group_limit: 8,
        queue_limit: 16,
    }
}

/// A stream on a disk in memory; its lock and its index are in a temporary directory.
struct Bench {
    temporary: tempfile::TempDir,
    disk: Arc<MemoryDisk>,
    config: StreamConfig,
}

impl Bench {
    fn new() -> Self {
        Self { temporary: tempfile::tempdir().unwrap(), disk: Arc::default(), config: small() }
    }

    fn dir(&self) -> &Path {
        self.temporary.path()
    }

    fn try_open(&self) -> Result<(Stream, Opened), Error> {
        let disk = Arc::clone(&self.disk);
        Stream::open_on(disk, self.dir(), self.config.clone())
    }

    fn open(&self) -> (Stream, Opened) {
        self.try_open().unwrap()
    }

    fn segments(&self) -> Vec<PathBuf> {
        self.disk.world().segments()
    }

    /// Garbage all over sled's files.
    fn corrupt_index(&self) {
        corrupt_index(self.dir());
    }
}

fn corrupt_index(dir: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(dir.join("index/db")).unwrap();
    let garbage: Vec<u8> =
        (0..64 * 1024_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    file.write_all_at(&garbage, 0).unwrap();
    std::fs::File::create(dir.join("index/conf")).unwrap().write_all_at(b"no configuration", 0).unwrap();
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), u8::try_from(number % 251).unwrap());
    bytes
}

fn fill(stream: &Stream, records: std::ops::RangeInclusive<u64>) {
    for number in records {
        assert_eq!(stream.append_blocking(payload(number, 100)).unwrap(), number);
    }
}

fn numbers(stream: &Stream) -> Vec<u64> {
    let taken = stream.take(1, usize::MAX, usize::MAX).unwrap();
    for (seq, bytes) in &taken {
        assert_eq!(*bytes, payload(*seq, 100), "record {seq}");
    }
    taken.into_iter().map(|(seq, _)| seq).collect()
}
