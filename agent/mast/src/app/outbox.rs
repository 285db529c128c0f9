//! The outbox: the journal's stream of records, as the recorder fills it and the uplink drains it.

use std::path::Path;
use std::pin::Pin;

use egress::{Egress as _, Record, RollupBuilder};
use journal::{Fold, Opened, Stream, StreamConfig};
use link::{OutboxError, OutboxSource};

/// At the quota, this share of it is folded at once, so that folding is rare.
const FOLD_SHARE: u64 = 8;

#[derive(Debug, Clone)]
pub(crate) struct Outbox {
    stream: Stream,
    quota_bytes: u64,
}

impl Outbox {
    /// Opens the stream and tells in the log what a power cut or a bad disk has cost, if anything.
    pub(crate) fn open(dir: &Path, config: &StreamConfig) -> Result<Self, journal::Error> {
        let (stream, opened) = Stream::open(dir, config.clone())?;
        let Opened { epoch, records, truncated_bytes, gaps, index, .. } = &opened;
        tracing::info!(epoch = format!("{epoch:016x}"), records, truncated_bytes, ?index, "outbox opened");
        for gap in gaps {
            tracing::error!(first = gap.first, last = gap.last, "the outbox lost records to a damaged disk");
        }
        Ok(Self { stream, quota_bytes: config.quota_bytes })
    }

    /// Commits a record; it is on stable storage when this returns. At the quota the oldest records are folded
    /// into one first: gauges are dropped, sums are kept. Blocking.
    pub(crate) fn commit(&self, record: &Record) -> Result<u64, CommitError> {
        match self.stream.append_blocking(record.encode()?) {
            Err(journal::Error::QuotaExceeded { .. }) => {
                self.fold()?;
                Ok(self.stream.append_blocking(record.encode()?)?)
            }
            other => Ok(other?),
        }
    }

    fn fold(&self) -> Result<(), CommitError> {
        let mut rollup = FoldedRecords::default();
        let stored = self.stream.roll_up(&mut rollup, self.quota_bytes / FOLD_SHARE)?;
        if let Some(error) = rollup.error {
            return Err(error.into());
        }
        if let (Some(seq), Some((first, last))) = (stored, rollup.range) {
            tracing::warn!(
                seq,
                first,
                last,
                "the outbox is at its quota: its oldest records were rolled up into one"
            );
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> journal::StreamStatus {
        self.stream.status()
    }
}

/// The records of one roll-up; if no record can be made of them, why, and they stay.
#[derive(Debug, Default)]
struct FoldedRecords {
    builder: RollupBuilder,
    range: Option<(u64, u64)>,
    error: Option<egress::Error>,
}

impl Fold for FoldedRecords {
    fn add(&mut self, seq: u64, record: &[u8]) {
        self.builder.add(seq, record);
    }

    fn finish(&mut self, first: u64, last: u64) -> Option<Vec<u8>> {
        self.range = Some((first, last));
        let finished = std::mem::take(&mut self.builder).finish(first, last);
        finished.map_err(|error| self.error = Some(error)).ok()
    }
}

/// Why a record was not committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    #[error("the record or the roll-up that makes room for it cannot be encoded")]
    Encode(#[from] egress::Error),
    #[error("the outbox did not take the record")]
    Append(#[from] journal::Error),
}

impl OutboxSource for Outbox {
    fn take(
        &self,
        from_seq: u64,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, OutboxError> {
        Ok(self.stream.take(from_seq, limit_records, limit_bytes)?)
    }

    fn acknowledge(&self, upto_seq: u64) -> Result<(), OutboxError> {
        Ok(self.stream.acknowledge(upto_seq)?)
    }

    fn wait_beyond(&self, seq: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            if self.stream.committed(seq).await.is_err() {
                // The writer is gone, and so nothing will ever come; the agent is about to end.
                std::future::pending::<()>().await;
            }
        })
    }
}
