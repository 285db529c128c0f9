//! The words of the way out: everything an agent may say to its hub, and nothing else.
//!
//! In: numbers and identifiers that other crates hand over. Out: bytes of JSON (and, for the hub's documents, bytes
//! read back). Spawns nothing, does no IO, holds no clock.
//!
//! What it never does: carry free text. Only a type that implements the sealed [`Egress`] trait can be encoded for
//! the hub, and each of them is made of numbers, words of a fixed vocabulary, signatures, and [`Ident`]s. An `Ident` is
//! made from configuration, from signed documents or from a device probe, never from a request or an error.
//!
//! The contract with hub writers is `docs/specs/fleet.md`; the names here are the names there.

#![forbid(unsafe_code)]

mod error;
mod ident;

mod fixed;
mod site;
mod topics;

mod counters;
mod record;
mod rollup;

mod batch;
mod presence;
mod signed;

mod sealed;

pub use batch::{Batch, Codec, Sequenced};
pub use counters::{Counters, FailReason, Histogram, RejectReason};
pub use error::Error;
pub use fixed::{PublicKey, Signature};
pub use ident::Ident;
pub use presence::{Birth, Capability, Will};
pub use record::{Agent, Body, ClockState, Gap, GapReason, Interval, Provider, Record};
pub use rollup::{ModelSum, Rollup, RollupBuilder};
pub use sealed::{Egress, FormatVersion};
pub use signed::{Ack, Signed, signed_bytes};
pub use site::{Jurisdiction, Site};
pub use topics::{Document, Topics};

/// The protocol of this crate: the `v1` of `mast/v1/…`.
pub const PROTOCOL: u32 = 1;
/// The longest encoded [`Record`], in bytes.
pub const RECORD_LIMIT_BYTES: usize = 16 * 1024;
/// The most records in one [`Batch`].
pub const BATCH_LIMIT_RECORDS: usize = 64;
/// The longest encoded [`Batch`], in bytes.
pub const BATCH_LIMIT_BYTES: usize = 64 * 1024;
/// The longest signed document or acknowledgement a box reads, in bytes.
pub const SIGNED_LIMIT_BYTES: usize = 192 * 1024;
