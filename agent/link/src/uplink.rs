//! The child's end of the socket: all of `mast uplink`.

mod acks;
mod backoff;
mod connection;
mod credentials;
mod drain;
mod window;

use std::io;
use std::os::fd::AsFd;

use tokio::net::UnixStream;
use tokio::sync::mpsc;

pub(crate) use self::acks::verifying_keys;
use self::drain::Drain;
use crate::Error;
use crate::frames::{self, ToUplink};

/// Runs the uplink over `socket` until it is asked to end, or the agent at the other end is gone.
///
/// Reads its configuration from the first frame. The caller has set up logging and a runtime with time and IO, and passes
/// the process's only socket to the agent, usually [`socket_from_stdin`].
///
/// # Errors
/// [`Error::Closed`] if the agent went away without a word: the broker then publishes the will. [`Error::Frame`] if it broke the
/// protocol. [`Error::Config`] if what it sent cannot be used. Trouble with the broker is never an error: it is reported, and tried
/// again.
pub async fn run_uplink(socket: UnixStream) -> Result<(), Error> {
    let (mut reader, writer) = socket.into_split();
    let config = match frames::read(&mut reader).await? {
        Some(ToUplink::Config(config)) => *config,
        Some(_) => return Err(Error::Frame { problem: "the first frame is not config", source: None }),
        None => return Err(Error::Closed),
    };
    config.hub.validate()?;
    let (sender, frames) = mpsc::channel(4);
    let reading = tokio::spawn(frames::read_all(reader, sender));
    let result = Drain::new(config, writer)?.run(frames).await;
    reading.abort();
    result
}

/// The inherited socket: the agent passes one end of a pair as the child's standard input.
///
/// # Errors
/// If standard input is no Unix socket, or the runtime has no IO.
pub fn socket_from_stdin() -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.local_addr()?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
