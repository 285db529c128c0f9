//! The words of Triton's own protocol: the messages of `inference.GRPCInferenceService` and the model configuration.
//!
//! `proto/` holds Triton's files as they are (triton-inference-server/common, 83adf7c, BSD-3-Clause; their licence stands
//! at their head), so that field numbers and names are Triton's. `src/generated/` is made from them by `generate/`, a
//! package outside the workspace: `cargo run --manifest-path agent/triton/generate/Cargo.toml`.
//!
//! This crate does no IO and spawns nothing.

#![forbid(unsafe_code)]

pub mod config;

#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations)]
mod generated {
    include!("generated/inference.rs");
}

mod json;

pub use generated::*;
pub use json::{JsonError, to_json};
