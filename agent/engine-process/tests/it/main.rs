//! Workers of this crate's own example program, some of them with ONNX Runtime: `ORT_DYLIB_PATH`, or what
//! `cargo xtask setup` put into the checkout.
#![allow(clippy::unwrap_used)]

mod confined;
mod death;
mod lies;
#[path = "../../../engine-ort/tests/it/onnx.rs"]
#[allow(dead_code, unreachable_pub)]
mod onnx;
mod run;
mod support;
