use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::config::StreamConfig;
use crate::disk::{Disk, Mode, OsDisk, bytes_u64};
use crate::error::Error;
use crate::recover::{self, Opened, start_of};
use crate::scan::Scanner;
use crate::shared::{Gap, Shared, StreamStatus};
use crate::writer::{Order, Writer};

/// Makes one record of many, for [`Stream::roll_up`].
pub trait Fold {
    /// The next record, in order; an earlier roll-up comes as what it is.
    fn add(&mut self, seq: u64, record: &[u8]);

    /// The record that stands for the numbers `first..=last`: all that was added, and what was lost among it. `None`: there is
    /// none, and everything stays as it was.
    fn finish(&mut self, first: u64, last: u64) -> Option<Vec<u8>>;
}

/// A durable first-in first-out queue of opaque records. Clones are handles of one stream; the last one to go waits for the
/// writer to finish and frees the directory.
#[derive(Debug, Clone)]
pub struct Stream {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Dropped in this order: the queue's end stops the writer, then the index closes, then the lock goes.
    orders: Option<mpsc::Sender<Order>>,
    writer: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// Held by what removes segments on a caller's thread, so that a roll-up does not lose them while it reads.
    maintenance: Mutex<()>,
    _lock: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.orders = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the journal writer panicked");
        }
    }
}

impl Stream {
    /// Opens the stream in `dir`, which is made if it is not there, and repairs what a crash has left.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Config`], [`Error::Format`], or [`Error::Io`] and [`Error::DiskFull`] when the directory cannot
    /// be used. Damage is no error: see [`Opened`].
    pub fn open(dir: &Path, config: StreamConfig) -> Result<(Self, Opened), Error> {
        Self::open_on(Arc::new(OsDisk), dir, config)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: StreamConfig,
    ) -> Result<(Self, Opened), Error> {
        config.check()?;
        disk.create_dirs(dir).map_err(|source| Error::io("create the directory", dir, source))?;
        let lock = lock(dir)?;
        let (shared, file, opened) = recover::open(&disk, dir, &config)?;
        let shared = Arc::new(shared);
        let (orders, queue) = mpsc::channel(config.queue_limit);
        let writer = Writer::new(Arc::clone(&shared), queue, file);
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(|| writer.run())
            .map_err(|source| Error::io("start the writer of", dir, source))?;
        let inner = Inner {
            orders: Some(orders),
            writer: Some(writer),
            shared,
            maintenance: Mutex::new(()),
            _lock: lock,
        };
        Ok((Self { inner: Arc::new(inner) }, opened))
    }

    /// Stores one record; returns its number once it is on disk. Waits for a place in the queue, and for its commit group.
    /// Dropped while it waits, the record may be stored or not.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`], [`Error::QuotaExceeded`]: not stored. [`Error::DiskFull`]: not stored, unless the power goes before
    /// the disk has seen it undone. [`Error::Io`], [`Error::Stopped`]: not known to be stored; after a restart it may be there.
    pub async fn append(&self, record: Vec<u8>) -> Result<u64, Error> {
        let orders = self.orders_for(&record)?;
        let (reply, answer) = oneshot::channel();
        orders.send(Order::Append { record, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// [`append`](Self::append) for threads. Must not be called from an async task: tokio panics there.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_blocking(&self, record: Vec<u8>) -> Result<u64, Error> {
        self.orders_for(&record)?;
        self.order(|reply| Order::Append { record, reply })
    }

    fn orders_for(&self, record: &[u8]) -> Result<&mpsc::Sender<Order>, Error> {
        let (bytes, limit_bytes) =
            (bytes_u64(record.len()), u64::from(self.inner.shared.config.record_limit_bytes));
        if bytes > limit_bytes {
            return Err(Error::RecordTooLarge { bytes, limit_bytes });
        }
        self.inner.orders.as_ref().ok_or(Error::Stopped)
    }

    fn order(&self, order: impl FnOnce(oneshot::Sender<Result<u64, Error>>) -> Order) -> Result<u64, Error> {
        let orders = self.inner.orders.as_ref().ok_or(Error::Stopped)?;
        let (reply, answer) = oneshot::channel();
        orders.blocking_send(order(reply)).map_err(|_| Error::Stopped)?;
        answer.blocking_recv().map_err(|_| Error::Stopped)?
    }

    /// Committed records from `from_seq` on, in order, that are neither acknowledged nor folded: at most `limit_records`, and
    /// at most `limit_bytes` of payload, except that the first one always fits. Numbers that are skipped are lost or folded.
    /// Reads the disk: call it from a thread that may block.
    ///
    /// # Errors
    /// [`Error::Io`]. A damaged record is no error but a [`Gap`] in [`StreamStatus::gaps`].
    pub fn take(
        &self,
        from_seq: u64,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let mut taken = Vec::new();
        let mut left_bytes = limit_bytes;
        self.read(from_seq, u64::MAX, &mut |seq, payload| {
            let fits = taken.len() < limit_records && (taken.is_empty() || payload.len() <= left_bytes);
            if fits {
                left_bytes = left_bytes.saturating_sub(payload.len());
                taken.push((seq, payload.to_vec()));
            }
            fits && taken.len() < limit_records
        })?;
        Ok(taken)
    }

    /// Gives the pending records in `from_seq..end_seq` to `visit` until it returns false.
    fn read(
        &self,
        from_seq: u64,
        end_seq: u64,
        visit: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), Error> {
        let shared = &*self.inner.shared;
        let mut next = from_seq;
        loop {
            let (first, segment) = {
                let state = shared.state();
                next = next.max(state.first_wanted());
                let Some((&first, segment)) =
                    state.segments.iter().find(|(_, segment)| segment.end_seq > next)
                else {
                    return Ok(());
                };
                (first, *segment)
            };
            if first.max(next) >= end_seq {
                return Ok(());
            }
            let path = shared.segment_path(first);
            let file = match shared.disk.open(&path, Mode::Read) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let mut state = shared.state();
                    // Freed meanwhile: look again. Still wanted: somebody else has removed it.
                    if state.segments.contains_key(&first) && state.first_wanted() < segment.end_seq {
                        state.add_gap(Gap { first, last: segment.end_seq - 1 });
                        next = segment.end_seq;
                    }
                    continue;
                }
                Err(source) => return Err(Error::io("open", &path, source)),
            };
            let (offset, mut expected) = start_of(&shared.index, first, next.max(first));
            let mut scanner =
                Scanner::new(&*file, shared.epoch, (offset, segment.bytes), expected, segment.end_seq);
            while let Some(record) = scanner.next().map_err(|source| Error::io("read", &path, source))? {
                if record.seq > expected {
                    shared.state().add_gap(Gap { first: expected, last: record.seq - 1 });
                }
                expected = record.seq + 1;
                if record.seq >= end_seq || (record.seq >= next && !visit(record.seq, record.payload)) {
                    return Ok(());
                }
            }
            if expected < segment.end_seq {
                shared.state().add_gap(Gap { first: expected, last: segment.end_seq - 1 });
            }
            next = segment.end_seq;
        }
    }

    /// Frees every record up to `upto_seq`, durably; space comes back a whole segment at a time. What was acknowledged before
    /// is nothing to do. After a crash the cursor may be behind, so a reader may see records twice. Blocks for one fdatasync.
    ///
    /// # Errors
    /// [`Error::BeyondHead`], [`Error::Io`].
    pub fn acknowledge(&self, upto_seq: u64) -> Result<(), Error> {
        let shared = &*self.inner.shared;
        let _maintenance = self.inner.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let state = shared.state();
            if upto_seq >= state.next_seq {
                return Err(Error::BeyondHead { upto_seq, head_seq: state.next_seq - 1 });
            }
            if upto_seq <= state.acked {
                return Ok(());
            }
        }
        // First the cursor, then the segments: the other way round, a crash would look like a loss.
        shared.cursor().store(|slot| (slot.acked, slot.floor) = (upto_seq, slot.floor.max(upto_seq + 1)))?;
        {
            let mut state = shared.state();
            state.acked = upto_seq;
            state.gaps.retain(|gap| gap.last > upto_seq);
            let (wanted, next_seq) = (state.first_wanted(), state.next_seq);
            state.marks.free(wanted, next_seq);
        }
        shared.free_segments();
        Ok(())
    }

    /// A picture of now. Does no disk access.
    #[must_use]
    pub fn status(&self) -> StreamStatus {
        let shared = &*self.inner.shared;
        let index = shared.index.state();
        let state = shared.state();
        let (pending_records, pending_bytes) = state.pending();
        StreamStatus {
            epoch: shared.epoch,
            next_seq: state.next_seq,
            acked_seq: state.acked,
            pending_records,
            pending_bytes,
            disk_bytes: state.disk_bytes(),
            quota_bytes: shared.config.quota_bytes,
            oldest_pending: state.marks.oldest(),
            index,
            bytes_written: state.bytes_written,
            gaps: state.gaps.iter().copied().collect(),
            disk_full: state.full_since.is_some(),
        }
    }

    /// Waits until a record beyond number `beyond` is committed; returns the committed head.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn committed(&self, beyond: u64) -> Result<u64, Error> {
        let mut head = self.inner.shared.head.subscribe();
        let head = head.wait_for(|head| *head > beyond).await.map_err(|_| Error::Stopped)?;
        Ok(*head)
    }

    /// Makes room without losing the sum: the oldest pending segments, at least one and as many as hold `want_bytes`, are given
    /// to `fold`, record by record; the one record that it makes of them is committed; then those segments are freed. A crash
    /// leaves either the old records or the new one. To a reader the folded range is a jump in the numbers that the new record
    /// explains; records that a reader took before, unacknowledged, may be among them, so the new record should say its range.
    /// It may exceed the quota by one record of the largest size.
    ///
    /// Returns the new record's number, or `None` if nothing is pending or `fold` made no record; nothing has changed then.
    /// Must not be called from an async task; appends go on meanwhile, acknowledgements wait.
    ///
    /// # Errors
    /// As [`append`](Self::append); nothing is freed then.
    pub fn roll_up(&self, fold: &mut dyn Fold, want_bytes: u64) -> Result<Option<u64>, Error> {
        let _maintenance = self.inner.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut range = self.oldest_sealed(want_bytes);
        if range.is_none() && self.inner.shared.state().pending().0 > 0 {
            self.order(|reply| Order::Seal { reply })?;
            range = self.oldest_sealed(want_bytes);
        }
        let Some((first, end)) = range else {
            return Ok(None);
        };
        self.read(first, end, &mut |seq, payload| {
            fold.add(seq, payload);
            true
        })?;
        let Some(record) = fold.finish(first, end - 1) else {
            return Ok(None);
        };
        self.orders_for(&record)?;
        self.order(|reply| Order::Fold { last: end - 1, record, reply }).map(Some)
    }

    /// Pending numbers `first..end` of the oldest sealed segments that together hold at least `want_bytes`.
    fn oldest_sealed(&self, want_bytes: u64) -> Option<(u64, u64)> {
        let state = self.inner.shared.state();
        let wanted = state.first_wanted();
        let ends = state.segments.keys().skip(1).copied();
        let (mut range, mut bytes) = (None, 0);
        for ((&first, segment), end) in state.segments.iter().zip(ends).filter(|(_, end)| *end > wanted) {
            let start = range.map_or(first.max(wanted), |(start, _)| start);
            range = Some((start, end));
            bytes += segment.bytes;
            if bytes >= want_bytes {
                break;
            }
        }
        range
    }
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(|source| Error::io("open the lock", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(Error::io("lock", &path, source)),
    }
}
