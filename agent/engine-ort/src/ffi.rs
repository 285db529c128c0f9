//! The part of ONNX Runtime's C API that this crate calls itself, behind safe types.
//!
//! `ort` is used for the environment and the session options; sessions, tensors and the read-back of node
//! assignments are here, because `ort` has no API for the last, and its typed tensors cannot borrow raw bytes.

mod assignment;
mod session;
mod value;

pub(crate) use assignment::{AssignedNode, assigned_nodes};
pub(crate) use session::Session;
pub(crate) use value::Value;
