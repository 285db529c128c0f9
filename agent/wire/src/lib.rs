//! The words of the request side: what a client asks for, what it gets back, and why it may be refused.
//!
//! Every front decodes into [`Request`] and encodes from [`Part`] and [`Error`]; the request path between
//! them knows no HTTP, no gRPC and no JSON. This crate does no IO and spawns nothing.

mod chain;
mod error;
mod labels;
mod reply;
mod request;

pub use chain::chain;
pub use egress::Jurisdiction;
pub use error::{Error, ErrorCode, Refusal};
pub use labels::Labels;
pub use reply::{Part, Ran, Timings};
pub use request::{NamedTensor, Request, RequestId, Sequence, SequenceId};
