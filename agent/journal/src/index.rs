//! The sled index: one row per commit group, from the group's first number to where it lies. Rows are applied without a
//! flush, after the callers were answered: the index is a cache. It lets an open skip the segments it covers, lets a reader
//! begin in the middle of a segment, and remembers commits whose segment was damaged later.
//!
//! sled 0.34.7 can panic over a damaged database and does not open on a full disk. So it is opened and read through once on a
//! thread of its own; whatever goes wrong, its directory is moved to `quarantine-<n>` and an empty one takes its place. If
//! that fails too, or sled fails later, the stream works without an index: slower, and correct.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::disk::bytes_u64;
use crate::error::is_full;
use crate::format::{FORMAT, seal, sealed, u64_at};
use crate::recover::quarantine_index;
use crate::shared::IndexState;

/// Where a commit group lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) first_seq: u64,
    /// First number of the segment, which names it.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

impl Row {
    const BYTES: usize = 32;

    fn encode(&self) -> Vec<u8> {
        seal(
            [self.segment, self.offset, self.bytes, self.records]
                .iter()
                .flat_map(|field| field.to_le_bytes())
                .collect(),
        )
    }

    /// `None` if the row is damaged.
    fn parse(key: &[u8], value: &[u8]) -> Option<Self> {
        let first_seq = u64::from_be_bytes(key.try_into().ok()?);
        let body = sealed(value, Self::BYTES)?;
        let field = |index: usize| u64_at(body, 8 * index);
        Some(Self { first_seq, segment: field(0), offset: field(1), bytes: field(2), records: field(3) })
    }

    pub(crate) fn end_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.records)
    }
}

#[derive(Debug)]
pub(crate) struct Index {
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    db: Option<sled::Db>,
    state: IndexState,
}

const IDENTITY: &[u8] = b"stream";
const CACHE_BYTES: u64 = 4 << 20;
const LOCK_WAIT: Duration = Duration::from_secs(2);

impl Index {
    /// Never fails: see the module documentation. `free_reserve` is called when the disk is full.
    pub(crate) fn open(stream_dir: &Path, epoch: u64, free_reserve: &dyn Fn() -> bool) -> Self {
        let dir = stream_dir.join("index");
        let mut identity = epoch.to_le_bytes().to_vec();
        identity.extend(FORMAT.to_le_bytes());
        let mut first = open_guarded(&dir, &identity);
        if matches!(&first, Err(failure) if failure.disk_full) && free_reserve() {
            first = open_guarded(&dir, &identity);
        }
        let (db, state) = match first {
            Ok(db) => (Some(db), IndexState::Intact),
            Err(Failure { reason, .. }) => {
                tracing::warn!(%reason, "the journal index is damaged and will be rebuilt from the segments");
                match quarantine_index(stream_dir).and_then(|()| {
                    open_guarded(&dir, &identity).map_err(|failure| io::Error::other(failure.reason))
                }) {
                    Ok(db) => (Some(db), IndexState::Rebuilt { reason }),
                    Err(error) => (None, IndexState::Off { reason: format!("{reason}; {error}") }),
                }
            }
        };
        Self { open: Mutex::new(Open { db, state }) }
    }

    pub(crate) fn state(&self) -> IndexState {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).state.clone()
    }

    pub(crate) fn put(&self, row: Row) {
        self.guarded(|db| db.insert(row.first_seq.to_be_bytes(), row.encode()).map(drop));
    }

    /// The row that holds `seq`, or the last one before it.
    pub(crate) fn at_or_before(&self, seq: u64) -> Option<Row> {
        self.guarded(|db| db.range(..=seq.to_be_bytes()).next_back().transpose())
            .flatten()
            .and_then(|(key, value)| Row::parse(&key, &value))
    }

    /// Rows whose first number is in `range`, in order; a damaged row is left out.
    pub(crate) fn rows(&self, range: RangeInclusive<u64>) -> Vec<Row> {
        let keys = range.start().to_be_bytes()..=range.end().to_be_bytes();
        self.guarded(|db| db.range(keys).collect::<sled::Result<Vec<_>>>())
            .unwrap_or_default()
            .iter()
            .filter_map(|(key, value)| Row::parse(key, value))
            .collect()
    }

    pub(crate) fn remove(&self, range: RangeInclusive<u64>) {
        let keys = range.start().to_be_bytes()..=range.end().to_be_bytes();
        self.guarded(|db| {
            let mut batch = sled::Batch::default();
            for key in db.range(keys).keys() {
                batch.remove(key?);
            }
            db.apply_batch(batch)
        });
    }

    /// Runs one sled operation; if it fails or panics, the index is given up until the next open.
    fn guarded<T>(&self, operation: impl FnOnce(&sled::Tree) -> sled::Result<T>) -> Option<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let db = open.db.as_ref()?;
        let reason = match catch_unwind(AssertUnwindSafe(|| operation(db))) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        tracing::warn!(%reason, "the journal index failed; working without it until the next start");
        discard(open.db.take());
        open.state = IndexState::Off { reason };
        None
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        discard(self.open.get_mut().unwrap_or_else(PoisonError::into_inner).db.take());
    }
}

/// sled writes while it is dropped, and may panic there too.
fn discard(db: Option<sled::Db>) {
    if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
        tracing::warn!("the journal index failed while it was closed");
    }
}

struct Failure {
    reason: String,
    disk_full: bool,
}

fn open_guarded(dir: &Path, identity: &[u8]) -> Result<sled::Db, Failure> {
    let (dir, identity) = (dir.to_path_buf(), identity.to_vec());
    let opened = std::thread::Builder::new()
        .name("journal-index".to_owned())
        .spawn(move || open_and_read(&dir, &identity))
        .map_err(|error| Failure { reason: error.to_string(), disk_full: false })?
        .join();
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(error)) => {
            let disk_full = matches!(&error, sled::Error::Io(source) if is_full(source));
            Err(Failure { reason: error.to_string(), disk_full })
        }
        Err(panic) => Err(Failure { reason: panic_text(&*panic), disk_full: false }),
    }
}

/// A sled that was dropped in this process may hold its lock a little longer, in threads that nobody can join; one that
/// tries to open meanwhile fails. Nobody else is there: the caller has the stream's own lock.
fn wait_for_lock(dir: &Path) {
    let Ok(file) = File::open(dir.join("db")) else {
        return;
    };
    let start = Instant::now();
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && start.elapsed() < LOCK_WAIT {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn open_and_read(dir: &Path, identity: &[u8]) -> sled::Result<sled::Db> {
    wait_for_lock(dir);
    let db = sled::Config::new()
        .path(dir)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(CACHE_BYTES)
        .use_compression(false)
        .flush_every_ms(Some(500))
        .open()?;
    let about = db.open_tree(b"about")?;
    if about.get(IDENTITY)?.is_none_or(|found| *found != *identity) {
        // New, or of a stream that was lost: rows of another epoch must not be believed.
        db.clear()?;
        about.insert(IDENTITY, identity)?;
        db.flush()?;
        // sled does not sync its directory, so a cut in the first seconds would leave an empty database.
        for path in [Some(dir), dir.parent()].into_iter().flatten() {
            File::open(path).and_then(|dir| dir.sync_all()).map_err(sled::Error::Io)?;
        }
    }
    let mut rows = 0_u64;
    for row in db.iter() {
        let (key, value) = row?;
        rows += u64::from(Row::parse(&key, &value).is_some());
    }
    tracing::debug!(rows, bytes = bytes_u64(Row::BYTES), "journal index opened");
    Ok(db)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("no message"))
}
