//! The journal: what a box must not lose, on disk.
//!
//! A [`Stream`] is one durable first-in first-out queue of opaque records; the outbox is its first user. Segment files are
//! the truth, a sled index is a cache of them that may be thrown away at any time. [`atomic`] replaces small files whole.
//!
//! **Threads.** Each open stream owns one writer thread named `journal`; sled brings a flusher of its own. No tasks.
//! **In:** records through [`Stream::append`], an acknowledgement through [`Stream::acknowledge`].
//! **Out:** committed records in order through [`Stream::take`], [`Gap`]s where the disk lost some, [`StreamStatus`].
//! **Never:** answers an append before the record is on disk (`fdatasync`), puts a payload into sled, lets a sled type out,
//! uses a sequence number twice knowingly, panics over what it finds on disk, or reads a record's content.
//!
//! The format on disk is specified in the module documentation of `format`, the rules of recovery in that of `recover`.
#![forbid(unsafe_code)]

pub mod atomic;
mod config;
mod cursor;
mod disk;
mod error;
mod format;
mod index;
mod recover;
mod scan;
mod shared;
mod stream;
mod writer;

#[cfg(test)]
mod tests;

pub use config::StreamConfig;
pub use error::Error;
pub use recover::Opened;
pub use shared::{Gap, IndexState, StreamStatus};
pub use stream::{Fold, Stream};
