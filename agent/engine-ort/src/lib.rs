//! ONNX Runtime behind the `Engine` trait.
//!
//! [`load`] finds the runtime's shared library, reads the file before a byte of it runs, and opens it once per
//! process. [`OrtBackend`] then turns a model file into an engine on the best provider of the model's list
//! that works, and reads back from the runtime which provider got which node.
//!
//! In: a library on disk, model files, batches of tensors. Out: engines, and the placement of their nodes.
//! Inputs are read in place and outputs are handed on in the runtime's own memory: a lone request is not copied.
//!
//! It spawns no thread of its own but one that counts files while a TensorRT build runs; the runtime's
//! intra-op threads belong to their session. It never opens a library that holds the telemetry uploader unless
//! the operator names the version, never falls back without saying so, and never opens a socket.

mod backend;
mod device;
mod engine;
mod error;
mod ffi;
mod library;
mod options;
mod placement;
mod providers;
mod tensorrt;

pub use backend::OrtBackend;
pub use error::Error;
pub use library::{Config, LibraryReport, Runtime, Telemetry, examine, find, inspect, load};
