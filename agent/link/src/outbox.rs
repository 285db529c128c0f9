//! What the uplink needs of a durable queue. The agent's journal is passed in by `mast/app.rs`.

use std::future::Future;
use std::pin::Pin;

/// Why the outbox could not be read or freed.
pub type OutboxError = Box<dyn std::error::Error + Send + Sync>;

/// The records on their way to the hub, numbered.
pub trait OutboxSource: Send + Sync {
    /// The records from `from_seq` on that are still held, in order, with their numbers.
    ///
    /// 0 is before every record. At most `limit_records`, and at most `limit_bytes` together, but at least
    /// one if there is one. Numbers may be skipped: what was folded is explained by a roll-up, what was lost by a gap, each a
    /// record with a higher number. May block on the disk.
    ///
    /// # Errors
    /// Whatever the queue says; the uplink then ends and is started again.
    fn take(
        &self,
        from_seq: u64,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, OutboxError>;

    /// Frees all records up to and including `upto_seq`. Repeating it is harmless. May block on the disk.
    ///
    /// # Errors
    /// Whatever the queue says; the uplink then ends and is started again.
    fn acknowledge(&self, upto_seq: u64) -> Result<(), OutboxError>;

    /// Resolves once there is a record above `seq`; at once if there is one already.
    fn wait_beyond(&self, seq: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}
