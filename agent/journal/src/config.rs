use serde::Deserialize;

use crate::error::Error;
use crate::format::RECORD_MAX;

/// Sizes of one stream. The defaults suit the outbox of a box.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// A segment that has reached this size is sealed; space comes back a whole segment at a time. 16 MiB.
    pub segment_bytes: u64,
    /// All segments together; an append beyond it is refused. At least four segments. 256 MiB.
    pub quota_bytes: u64,
    /// A file kept only to be deleted when the disk is full, so that the index can still work; 0 keeps none. 1 MiB.
    pub reserve_bytes: u64,
    /// The largest record, at most 16 MiB and at most a segment. 256 KiB.
    pub record_limit_bytes: u32,
    /// Records committed by one write and one fdatasync, at most. 256.
    pub group_limit: usize,
    /// Appends that wait for the writer, at most; further callers wait for a place. 1024.
    pub queue_limit: usize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            quota_bytes: 256 << 20,
            reserve_bytes: 1 << 20,
            record_limit_bytes: 256 << 10,
            group_limit: 256,
            queue_limit: 1024,
        }
    }
}

impl StreamConfig {
    /// Checks the numbers against each other, without touching the disk.
    ///
    /// # Errors
    /// [`Error::Config`]; its reason begins with the key.
    pub fn check(&self) -> Result<(), Error> {
        let limit = u64::from(self.record_limit_bytes);
        let problems = [
            (
                self.group_limit == 0 || self.queue_limit == 0,
                "group_limit and queue_limit must be at least 1",
            ),
            (self.record_limit_bytes == 0, "record_limit_bytes must be at least 1"),
            (self.record_limit_bytes > RECORD_MAX, "record_limit_bytes must be at most 16777216"),
            (limit > self.segment_bytes, "record_limit_bytes must be at most segment_bytes"),
            (self.segment_bytes > 1 << 30, "segment_bytes must be at most 1073741824"),
            (self.quota_bytes / 4 < self.segment_bytes, "quota_bytes must be at least 4 * segment_bytes"),
        ];
        match problems.into_iter().find(|(bad, _)| *bad) {
            Some((_, reason)) => Err(Error::Config { reason }),
            None => Ok(()),
        }
    }
}
