//! `Backend` and `Engine` over a worker process: a crash, a leak or a hang of a runtime costs one worker's models,
//! and what a model can reach after its start is its own memory.
//!
//! **The daemon's side.** [`ProcessBackend`] starts `<program> worker` for each model (one for all models of a GPU),
//! hands it the memory it shares with it ([`frame`] is the specification of what travels), and gives out engines,
//! each one lane: a socket that carries one batch at a time. One thread per worker starts it, waits for its end and
//! ends with it. [`IsolatingBackend`] chooses between this and the backend inside the daemon.
//!
//! **The worker's side.** [`serve_worker`] loads the runtime, gives up what it does not need ([`SandboxReport`]),
//! and serves its lanes, a thread each.
//!
//! In: models by path, batches whose tensors lie in shared memory. Out: outputs in that memory, without a copy where
//! their shape is known before the run. A BYTES output is copied once, before its framing is believed, and so is an
//! output of unknown size the first time; what the arena has no room for costs one copy each way.
//!
//! The daemon never believes a worker: frames are decoded as from an enemy, offsets must lie in what was lent for
//! this very run, and no length that a worker wrote to shared memory is used. What a worker logs is passed on line by
//! line, without control characters; a text that may quote a request is never logged.

mod arena;
mod backend;
mod config;
mod engine;
mod error;
pub mod frame;
mod isolate;
mod log;
mod outputs;
mod process;
mod segment;
mod socket;
mod worker;

pub use backend::{ProcessBackend, WorkerView};
pub use config::{Config, WorkerProgram};
pub use error::Error;
pub use frame::{Fence, FenceReport, FenceState, SandboxReport};
pub use isolate::IsolatingBackend;
pub use socket::{Lane, Received, pair};
pub use worker::{serve_worker, socket_from_stdin};
