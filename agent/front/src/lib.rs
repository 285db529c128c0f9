//! Local clients in: KServe v2 REST on one port, Prometheus metrics on another, and the control socket of the
//! command line.
//!
//! [`bind`] opens the ports, [`Bound::serve`] and [`serve_unix`] serve them. Per listener one task accepts, and
//! per connection one task serves; they end after the shutdown signal, and [`Running::finished`] names those
//! that did not. In: HTTP/1.1. Out: one call, `Serve::infer`, with tensors in memory that the engines read in
//! place; and replies and errors in the words of the protocol (docs/specs/wire.md).
//!
//! It never decides who may do what (that is the residency policy behind `Serve`), never queues, and never reads
//! a body before there is room for it. Every read has a limit and a deadline, every write a deadline.

#![forbid(unsafe_code)]

mod app;
mod body;
mod config;
mod connection;
mod control;
mod decode;
mod encode;
mod error;
mod fault;
mod frames;
mod infer;
mod labels;
mod listen;
mod metrics;
mod model;
mod repository;
mod route;
mod socket;
mod target;

pub use app::{MoreMetrics, Status};
pub use config::{Config, DefaultLabels};
pub use error::Error;
pub use listen::{Addresses, Bound, Running, bind, serve_unix};
