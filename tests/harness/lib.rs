//! The daemon driven from outside: what the integration tests, the demo, the benchmarks and the long proofs share.
//!
//! Everything here is real: [`Agent`] is the `mast` binary, [`Mosquitto`] is mosquitto, [`Hub`] is a process that writes and
//! fsyncs before it acknowledges, [`http`] is bytes on a socket. Each is a child in a temporary directory, on ports that the
//! system chose, killed by its own id when dropped. Waiting is always for a state, with a deadline, never for a time.

#![forbid(unsafe_code)]

mod agent;
mod broker;
pub mod files;
pub mod http;
mod hub;
pub mod infer;
pub mod load;
pub mod onnx;
mod process;
mod tmpfs;
mod tree;
mod wait;
pub mod workspace;

pub use agent::{Agent, Setup, run_mast};
pub use broker::{EmbeddedBroker, Mosquitto};
pub use hub::{Hub, Ledger};
pub use process::{Process, free_port, kill_by_id};
pub use tmpfs::{Tmpfs, mounting_is_possible};
pub use tree::Tree;
pub use wait::{wait_for, wait_until};
