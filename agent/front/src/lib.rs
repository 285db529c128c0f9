//! Local clients in: KServe v2 over REST and over gRPC, Prometheus metrics, each on a port of its own, and the
//! control socket of the command line.
//!
//! [`bind`] opens the ports, [`Bound::serve`] and [`serve_unix`] serve them. Per listener one task accepts, per
//! connection one task serves, and over gRPC one more per call; one task looks whether the files of certificates and
//! keys changed. They end after the shutdown signal, and [`Running::finished`] names those that did not. In: HTTP/1.1,
//! and HTTP/2 for gRPC, behind TLS where it is configured. Out: one call, `Serve::infer`, with tensors in memory that
//! the engines read in place; and replies and errors in the words of the protocol (docs/specs/wire.md). The way of
//! every inference, whatever protocol it came by, is `call.rs`.
//!
//! It lets in who has a key, where keys are configured. It never decides what may be done with whose data (that is the
//! residency policy behind `Serve`), never queues, and never reads
//! a body before there is room for it. Every read has a limit and a deadline, every write a deadline.

#![forbid(unsafe_code)]

mod access;
mod app;
mod body;
mod call;
mod clock;
mod config;
mod connection;
mod control;
mod credentials;
mod decode;
mod describe;
mod encode;
mod error;
mod fault;
mod frames;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod grpc;
mod http2;
mod infer;
mod json;
mod keys;
mod labels;
mod listen;
mod live;
mod logging;
mod media;
mod metrics;
mod model;
mod openai;
mod plans;
mod refusals;
mod repository;
mod route;
mod socket;
mod target;
mod tls;
mod trace;

pub use app::{Control, MoreMetrics, Status};
pub use config::{Config, DefaultLabels};
pub use credentials::{Credentials, CredentialsView};
pub use error::Error;
pub use keys::{KeysConfig, NewKey, check_keys, new_key};
pub use listen::{Addresses, Bound, Running, bind, serve_unix};
pub use logging::LogLevel;
pub use tls::{ClientCertificates, TlsConfig, TlsVersion};
pub use trace::{Finished, Outcome, Parent, RanBy, Traces};
