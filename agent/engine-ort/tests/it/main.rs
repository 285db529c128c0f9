//! The engine against the real library: `ORT_DYLIB_PATH`, or what `cargo xtask setup` put into the checkout.
#![allow(clippy::unwrap_used)]

mod library;
mod models;
mod onnx;
mod placement;
mod run;
mod support;
