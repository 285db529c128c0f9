//! The thread that writes. One write and one fdatasync commit a group: whatever has queued up while the last group was on
//! its way to the disk. Callers are answered after the fdatasync; the index is told after them.
//!
//! After a failed fdatasync nobody knows what of the file is on disk and a second fdatasync may report success, so the
//! segment is given up: the group is refused, its bytes are cut off, what was committed before is read again, and the next
//! group goes to a new segment, whose first number makes whatever is left behind the old one's end count for nothing.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::disk::{DiskFile, Mode, bytes_u64, write_all_at};
use crate::error::{Error, is_full};
use crate::format::{RECORD_HEADER, SEGMENT_HEADER, put_record};
use crate::index::Row;
use crate::recover::create_segment;
use crate::scan::Scanner;
use crate::shared::{Gap, Segment, Shared};

pub(crate) type Reply = oneshot::Sender<Result<u64, Error>>;

#[derive(Debug)]
pub(crate) enum Order {
    Append {
        record: Vec<u8>,
        reply: Reply,
    },
    /// Writes a record that stands for all up to `last`, which lie in sealed segments, and frees those.
    Fold {
        last: u64,
        record: Vec<u8>,
        reply: Reply,
    },
    /// Begins a new segment.
    Seal {
        reply: Reply,
    },
}

#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    /// The last segment's file; none after a failure that makes a new segment necessary.
    active: Option<Active>,
    group: Vec<(Vec<u8>, Reply)>,
    group_bytes: usize,
    /// What the group's one write writes.
    buffer: Vec<u8>,
    replies: Vec<Reply>,
    /// Callers answered since the last orders came, and how long the last commit took.
    answered: usize,
    last_commit: Duration,
}

#[derive(Debug)]
struct Active {
    first_seq: u64,
    bytes: u64,
    file: Box<dyn DiskFile>,
}

const GROUP_BYTES: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_micros(500);
const FULL_RETRY: Duration = Duration::from_secs(1);

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, orders: mpsc::Receiver<Order>, file: Box<dyn DiskFile>) -> Self {
        let last = shared.state().segments.iter().next_back().map(|(&first, segment)| (first, segment.bytes));
        let active = last.map(|(first_seq, bytes)| Active { first_seq, bytes, file });
        let (group, buffer, replies) = (Vec::new(), Vec::new(), Vec::new());
        let (group_bytes, answered, last_commit) = (0, 0, Duration::ZERO);
        Self { shared, orders, active, group, group_bytes, buffer, replies, answered, last_commit }
    }

    /// Until the last handle of the stream is gone and everything queued is answered.
    pub(crate) fn run(mut self) {
        let mut orders = Vec::new();
        while self.orders.blocking_recv_many(&mut orders, self.shared.config.group_limit) > 0 {
            self.gather(&mut orders);
            self.answered = 0;
            for order in orders.drain(..) {
                match order {
                    Order::Append { record, reply } => {
                        self.group_bytes += record.len();
                        self.group.push((record, reply));
                        if self.group_bytes >= GROUP_BYTES {
                            self.commit_group();
                        }
                    }
                    Order::Fold { last, record, reply } => {
                        self.commit_group();
                        answer(reply, self.fold(last, &record));
                    }
                    Order::Seal { reply } => {
                        self.commit_group();
                        let sealed = self.begin_segment();
                        answer(reply, sealed.map(|()| self.shared.state().next_seq - 1));
                    }
                }
            }
            self.commit_group();
        }
    }

    /// The callers that were just answered are about to come back: without a moment's patience half of them would miss the
    /// next group, and groups would alternate between few and many. Waits only if there were several, for no more than
    /// a quarter of the last commit; a lone caller never waits.
    fn gather(&mut self, orders: &mut Vec<Order>) {
        let want = self.answered.min(self.shared.config.group_limit);
        let start = Instant::now();
        let patience = (self.last_commit / 4).min(PATIENCE);
        while orders.len() + self.orders.len() < want && start.elapsed() < patience {
            std::thread::yield_now();
        }
        while orders.len() < self.shared.config.group_limit {
            let Ok(order) = self.orders.try_recv() else {
                return;
            };
            orders.push(order);
        }
    }

    fn commit_group(&mut self) {
        if self.group.is_empty() {
            return;
        }
        self.group_bytes = 0;
        self.buffer.clear();
        let ready = self.gate().and_then(|()| self.ready());
        let (first_seq, held_bytes) = {
            let state = self.shared.state();
            (state.next_seq, state.disk_bytes())
        };
        let quota_bytes = self.shared.config.quota_bytes;
        let mut seq = first_seq;
        for (record, reply) in self.group.drain(..) {
            let after = held_bytes + bytes_u64(self.buffer.len() + record.len()) + RECORD_HEADER;
            if let Err(error) = &ready {
                answer(reply, Err(error.clone()));
            } else if after > quota_bytes {
                answer(reply, Err(Error::QuotaExceeded { held_bytes, quota_bytes }));
            } else {
                put_record(&mut self.buffer, self.shared.epoch, seq, false, &record);
                self.replies.push(reply);
                seq += 1;
            }
        }
        if seq == first_seq {
            return;
        }
        let start = Instant::now();
        let stored = self.store(seq - first_seq);
        self.last_commit = start.elapsed();
        self.answered += self.replies.len();
        for (reply, seq) in self.replies.drain(..).zip(first_seq..) {
            answer(reply, stored.as_ref().map(|_| seq).map_err(Error::clone));
        }
        if let Ok(row) = stored {
            self.shared.index.put(row);
        }
    }

    fn fold(&mut self, last: u64, record: &[u8]) -> Result<u64, Error> {
        self.ready()?;
        let (seq, floor, held_bytes) = {
            let state = self.shared.state();
            (state.next_seq, state.floor, state.disk_bytes())
        };
        // The record that makes room needs some: one more of the largest kind is allowed for.
        let size = RECORD_HEADER + bytes_u64(record.len());
        let headroom = RECORD_HEADER + u64::from(self.shared.config.record_limit_bytes) + SEGMENT_HEADER;
        let quota_bytes = self.shared.config.quota_bytes.saturating_add(headroom);
        if held_bytes + size > quota_bytes {
            return Err(Error::QuotaExceeded { held_bytes, quota_bytes });
        }
        self.shared.cursor().store(|slot| {
            slot.floor = slot.floor.max(floor);
            (slot.fold_last, slot.fold_seq) = (last, seq);
        })?;
        self.buffer.clear();
        put_record(&mut self.buffer, self.shared.epoch, seq, true, record);
        let row = self.store(1)?;
        self.shared.index.put(row);
        {
            let mut state = self.shared.state();
            state.floor = state.floor.max(last + 1);
            let (wanted, next_seq) = (state.first_wanted(), state.next_seq);
            state.marks.free(wanted, next_seq);
        }
        self.shared.free_segments();
        Ok(seq)
    }

    /// While the disk is full, appends are refused at once; whether there is room again is tried once in a while.
    fn gate(&self) -> Result<(), Error> {
        let full_since = self.shared.state().full_since;
        match full_since {
            Some(since) if since.elapsed() < FULL_RETRY || !self.shared.restore_reserve() => {
                Err(Error::io("append to", &self.shared.dir, io::ErrorKind::StorageFull.into()))
            }
            _ => Ok(()),
        }
    }

    fn ready(&mut self) -> Result<(), Error> {
        let room = self.active.as_ref().is_some_and(|active| active.bytes < self.shared.config.segment_bytes);
        if room { Ok(()) } else { self.begin_segment() }
    }

    fn begin_segment(&mut self) -> Result<(), Error> {
        let next_seq = self.shared.state().next_seq;
        if self.active.as_ref().is_some_and(|active| active.first_seq == next_seq) {
            return Ok(());
        }
        // Nothing more may go to the old segment once a file with the next number may exist.
        self.active = None;
        let file = create_segment(&*self.shared.disk, &self.shared.dir, self.shared.epoch, next_seq)
            .inspect_err(|error| {
                // An empty segment of that number, given up after a failure, stays: the last one keeps the stream's place.
                if !self.shared.state().segments.contains_key(&next_seq) {
                    drop(self.shared.disk.remove(&self.shared.segment_path(next_seq)));
                }
                if matches!(error, Error::DiskFull { .. }) {
                    self.shared.free_reserve();
                }
            })?;
        self.active = Some(Active { first_seq: next_seq, bytes: SEGMENT_HEADER, file });
        let segment = Segment { end_seq: next_seq, bytes: SEGMENT_HEADER, records: 0 };
        {
            let mut state = self.shared.state();
            state.segments.insert(next_seq, segment);
            state.bytes_written += SEGMENT_HEADER;
        }
        self.shared.free_segments();
        Ok(())
    }

    /// Commits the buffer, which holds `records` records from the next number on.
    fn store(&mut self, records: u64) -> Result<Row, Error> {
        let Some(active) = &mut self.active else {
            return Err(Error::Stopped);
        };
        let path = self.shared.segment_path(active.first_seq);
        let offset = active.bytes;
        let failed = match write_all_at(&*active.file, &self.buffer, offset) {
            Ok(()) => active.file.sync_data().err().map(|source| ("sync", false, source)),
            Err(source) => {
                let undone = is_full(&source) && active.file.truncate(offset).is_ok();
                Some(("append to", undone, source))
            }
        };
        if let Some((operation, undone, source)) = failed {
            if is_full(&source) {
                self.shared.free_reserve();
            }
            if undone {
                return Err(Error::io(operation, &path, source));
            }
            self.give_up_segment();
            // Not `DiskFull`, which promises that nothing was stored.
            return Err(Error::Io { operation, path, source: Arc::new(source) });
        }
        let bytes = bytes_u64(self.buffer.len());
        active.bytes += bytes;
        let segment = active.first_seq;
        let mut state = self.shared.state();
        let first_seq = state.next_seq;
        let end_seq = first_seq + records;
        if let Some(segment) = state.segments.get_mut(&segment) {
            *segment = Segment { end_seq, bytes: active.bytes, records: segment.records + records };
        }
        state.next_seq = end_seq;
        state.bytes_written += bytes;
        state.marks.commit(first_seq);
        drop(state);
        self.shared.head.send_replace(end_seq - 1);
        Ok(Row { first_seq, segment, offset, bytes, records })
    }

    fn give_up_segment(&mut self) {
        let Some(Active { first_seq, bytes, file }) = self.active.take() else {
            return;
        };
        tracing::error!(segment = first_seq, "a write to the journal failed; going on in a new segment");
        // What cannot be cut off does not count: the next segment's first number ends this one.
        drop(file.truncate(bytes));
        let end_seq = self.shared.state().next_seq;
        let Ok(file) = self.shared.disk.open(&self.shared.segment_path(first_seq), Mode::Read) else {
            return;
        };
        let mut scanner =
            Scanner::new(&*file, self.shared.epoch, (SEGMENT_HEADER, bytes), first_seq, end_seq);
        let mut seq = first_seq;
        while let Ok(Some(record)) = scanner.next() {
            if record.seq > seq {
                self.shared.state().add_gap(Gap { first: seq, last: record.seq - 1 });
            }
            seq = record.seq + 1;
        }
        if seq < end_seq {
            self.shared.state().add_gap(Gap { first: seq, last: end_seq - 1 });
        }
    }
}

fn answer(reply: Reply, result: Result<u64, Error>) {
    // A caller that no longer waits has lost only the answer.
    drop(reply.send(result));
}
