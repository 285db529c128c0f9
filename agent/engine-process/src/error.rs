use std::io;

use crate::frame::FrameError;

/// Why a worker and the daemon cannot work together. A model's own errors are `engine::{LoadError, EngineError}`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make memory to share")]
    Memory(#[source] io::Error),
    #[error("cannot make a socket for the worker")]
    Socket(#[source] io::Error),
    #[error("cannot start the worker process")]
    Spawn(#[source] io::Error),
    #[error("cannot send to the other end")]
    Send(#[source] io::Error),
    #[error("cannot receive from the other end")]
    Receive(#[source] io::Error),
    #[error("the other end is gone")]
    Closed,
    #[error("no answer within {limit_ms} ms")]
    Silent { limit_ms: u128 },
    #[error("the other end sent what it never should")]
    Frame(#[from] FrameError),
    #[error("the worker cannot run: {detail}")]
    NotReady { detail: String },
}
