//! What was taken from the outbox and is not acknowledged by the hub: which batch goes next, and when again. Pure; time is an
//! argument.
//!
//! Rules:
//! - At most so many batches are held; while there is room, more is taken.
//! - Only the hub's acknowledgement frees. After a reconnection everything held is sent again, in order.
//! - Without progress for `resend_after`, everything held is sent again; if that did not help either, only the lowest batch, at twice
//!   the wait each time up to a minute. As soon as the hub is heard, everything again. A hub that is away costs
//!   a batch a minute, not the window every two seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use egress::{
    BATCH_LIMIT_BYTES, BATCH_LIMIT_RECORDS, Batch, Egress, Error, Gap, GapReason, Record, Sequenced,
};

/// Room for the envelope of a batch, in bytes.
const ENVELOPE_BYTES: usize = 256;
/// Room for the envelope of a record in a batch, in bytes.
const ENVELOPE_RECORD_BYTES: usize = 48;
/// The longest wait between two attempts without progress, if `resend_after` is shorter.
const RESEND_MAX: Duration = Duration::from_secs(60);

/// The batches between the outbox and the hub.
#[derive(Debug)]
pub(super) struct Window {
    epoch: u64,
    limit_batches: usize,
    limit_batch_bytes: usize,
    resend_after: Duration,
    held: VecDeque<Held>,
    /// The number that must come next from the outbox, once the first has come.
    next_seq: Option<u64>,
    /// The highest number that was ever published.
    published_seq: u64,
    /// Attempts in a row without progress.
    fruitless: u32,
    due: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    records: Vec<(Sequenced, usize)>,
    first_seq: u64,
    last_seq: u64,
    sent: bool,
    sent_before: bool,
}

/// What came of records from the outbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Numbers whose bytes are no record. A gap is sent in their place.
    pub(super) rejected: Vec<u64>,
    /// Numbers that were not there: folded meanwhile (a roll-up that comes later says so), or lost.
    pub(super) skipped: u64,
}

/// A batch to publish.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) payload: Vec<u8>,
    pub(super) again: bool,
}

/// What an acknowledgement did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// Freed everything up to this number.
    Freed { upto_seq: u64 },
    /// Nothing new.
    Nothing,
}

impl Window {
    pub(super) fn new(epoch: u64, limit_batches: usize, resend_after: Duration) -> Self {
        Self {
            epoch,
            limit_batches,
            limit_batch_bytes: BATCH_LIMIT_BYTES,
            resend_after,
            held: VecDeque::new(),
            next_seq: None,
            published_seq: 0,
            fruitless: 0,
            due: None,
        }
    }

    /// The number to take from, if there is room.
    pub(super) fn wants(&self) -> Option<u64> {
        (self.held.len() < self.limit_batches).then(|| self.next_seq.unwrap_or(0))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Records held.
    pub(super) fn pending_records(&self) -> usize {
        self.held.iter().map(|batch| batch.records.len()).sum()
    }

    /// Takes in what the outbox gave. Every record is read and written anew here, so only what is a record can leave.
    pub(super) fn push(&mut self, stored: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Result<Taken, Error> {
        let mut taken = Taken::default();
        let mut records = Vec::new();
        for (seq, bytes) in stored {
            let record = Record::decode(&bytes).unwrap_or_else(|_| {
                taken.rejected.push(seq);
                Gap { first_seq: seq, last_seq: seq, reason: GapReason::Unreadable }.into()
            });
            let next = self.next_seq.unwrap_or(seq);
            if seq < next {
                continue;
            }
            taken.skipped = taken.skipped.saturating_add(seq - next);
            records.push(measured(Sequenced { seq, record })?);
            self.next_seq = Some(seq.saturating_add(1));
        }
        self.group(records);
        Ok(taken)
    }

    /// A connection is up whose broker takes packets of `packet_limit` bytes: all is to be sent (again).
    pub(super) fn connected(&mut self, packet_limit: Option<u32>) {
        let limit = packet_limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        // The fixed header, the topic of at most 300 bytes and the properties are in the packet too.
        self.limit_batch_bytes = limit.saturating_sub(512).clamp(ENVELOPE_BYTES + 1, BATCH_LIMIT_BYTES);
        let sent_before =
            self.held.iter().filter(|batch| batch.sent_before).map(|batch| batch.last_seq).max();
        let records = std::mem::take(&mut self.held).into_iter().flat_map(|batch| batch.records).collect();
        self.group(records);
        for batch in &mut self.held {
            batch.sent_before = sent_before.is_some_and(|last| batch.first_seq <= last);
        }
        self.fruitless = 0;
        self.due = None;
    }

    /// The next batch to publish; the same until [`Self::published`] is called.
    pub(super) fn to_send(&self) -> Result<Option<Outgoing>, Error> {
        let Some(batch) = self.held.iter().find(|batch| !batch.sent) else { return Ok(None) };
        let oldest = self.held.front().map_or(batch.first_seq, |batch| batch.first_seq);
        let records = batch.records.iter().map(|(record, _)| record.clone()).collect();
        let Some(wire) = Batch::new(self.epoch, oldest, records) else { return Ok(None) };
        Ok(Some(Outgoing { payload: wire.encode()?, again: batch.sent_before }))
    }

    /// The batch of [`Self::to_send`] is on its way.
    pub(super) fn published(&mut self, now: Instant) {
        if let Some(batch) = self.held.iter_mut().find(|batch| !batch.sent) {
            batch.sent = true;
            batch.sent_before = true;
            self.published_seq = self.published_seq.max(batch.last_seq);
        }
        if self.due.is_none() {
            self.due = Some(now + self.wait());
        }
    }

    /// The hub has everything up to `upto_seq`. Frees no more than was published here: a hub may well know of more, from before a
    /// restart whose acknowledgements were lost, and then gets that again.
    pub(super) fn acknowledge(&mut self, upto_seq: u64, now: Instant) -> Acked {
        let upto_seq = upto_seq.min(self.published_seq);
        let before = self.pending_records();
        for batch in &mut self.held {
            batch.records.retain(|(record, _)| record.seq > upto_seq);
            if let Some((record, _)) = batch.records.first() {
                batch.first_seq = record.seq;
            }
        }
        self.held.retain(|batch| !batch.records.is_empty());
        let freed = self.pending_records() < before;
        if self.fruitless > 1 {
            // The hub is back: what was held back while it was away goes now.
            self.send_all_again();
        }
        if freed || self.fruitless > 1 {
            self.fruitless = 0;
            self.due = (!self.held.is_empty()).then(|| now + self.wait());
        }
        if freed { Acked::Freed { upto_seq } } else { Acked::Nothing }
    }

    /// When [`Self::resend`] is to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Nothing came back for too long.
    pub(super) fn resend(&mut self, now: Instant) {
        self.fruitless = self.fruitless.saturating_add(1);
        if self.fruitless == 1 {
            self.send_all_again();
        } else if let Some(lowest) = self.held.front_mut() {
            lowest.sent = false;
        }
        self.due = (!self.held.is_empty()).then(|| now + self.wait());
    }

    /// Attempts since the hub was last heard.
    pub(super) fn fruitless(&self) -> u32 {
        self.fruitless
    }

    /// Sending is not what is being waited for: the broker has not taken yet what was sent.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.due = self.due.map(|_| now + self.wait());
    }

    fn wait(&self) -> Duration {
        let longest = RESEND_MAX.max(self.resend_after);
        self.resend_after.saturating_mul(1 << self.fruitless.min(20)).min(longest)
    }

    fn send_all_again(&mut self) {
        self.held.iter_mut().for_each(|batch| batch.sent = false);
    }

    /// Appends batches of `records`, within the limits.
    fn group(&mut self, records: Vec<(Sequenced, usize)>) {
        let mut size = ENVELOPE_BYTES;
        let mut batch: Vec<(Sequenced, usize)> = Vec::new();
        for (record, length) in records {
            let is_full = batch.len() == BATCH_LIMIT_RECORDS || size + length > self.limit_batch_bytes;
            if is_full && !batch.is_empty() {
                self.held.extend(Held::new(std::mem::take(&mut batch)));
                size = ENVELOPE_BYTES;
            }
            size += length;
            batch.push((record, length));
        }
        self.held.extend(Held::new(batch));
    }
}

impl Held {
    fn new(records: Vec<(Sequenced, usize)>) -> Option<Self> {
        let first_seq = records.first()?.0.seq;
        let last_seq = records.last()?.0.seq;
        Some(Self { records, first_seq, last_seq, sent: false, sent_before: false })
    }
}

/// A record with what it takes in a batch, in bytes.
fn measured(record: Sequenced) -> Result<(Sequenced, usize), Error> {
    let length = record.record.encode()?.len() + ENVELOPE_RECORD_BYTES;
    Ok((record, length))
}

#[cfg(test)]
mod tests;
