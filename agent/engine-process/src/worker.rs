//! The worker's side: one process, its lanes, and what it gives up before it reads a model.

mod fences;
mod lane;
mod syscalls;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use engine::Backend;

use crate::Error;
use crate::frame::{FrameError, SandboxReport, ToDaemon, ToWorker};
use crate::segment::Segment;
use crate::socket::Lane;
use lane::Shared;

/// The control socket that the daemon made the worker's stdin.
///
/// # Errors
/// [`Error::Socket`], when stdin is none: a worker is started by the daemon, never by hand.
pub fn socket_from_stdin() -> Result<OwnedFd, Error> {
    let stdin = std::io::stdin();
    let kind = rustix::net::sockopt::socket_type(&stdin).map_err(|error| Error::Socket(error.into()))?;
    if kind != rustix::net::SocketType::SEQPACKET {
        return Err(Error::Socket(std::io::Error::other("stdin is another kind of socket")));
    }
    stdin.as_fd().try_clone_to_owned().map_err(Error::Socket)
}

/// Serves the daemon until it closes the control socket. `make_backend` loads the runtime, from the program's settings,
/// before the sandbox is closed; it must leave no thread behind.
///
/// Call it from `main`, before any thread was started: the namespaces are those of a process of one thread.
///
/// # Errors
/// [`Error`], when the daemon speaks another language or the runtime cannot be loaded.
pub fn serve_worker(
    control: OwnedFd,
    make_backend: impl FnOnce(&str) -> Result<Arc<dyn Backend>, String>,
) -> Result<(), Error> {
    let mut fences = fences::before_start(&control);
    let mut control = Lane::new(control);
    let received = control.receive_with_file()?;
    let ToWorker::Start(start) = ToWorker::decode(received.frame)? else {
        return Err(FrameError::OutOfTurn.into());
    };
    let arena = received.file.ok_or(FrameError::Field { what: "arena" })?;
    let arena = Segment::map(arena)?;
    fences.extend(fences::before_runtime(&start));
    let backend = match make_backend(&start.settings) {
        Ok(backend) => backend,
        Err(detail) => {
            control.send(&ToDaemon::NotReady { detail: detail.clone() }.encode(), None)?;
            return Err(Error::NotReady { detail });
        }
    };
    fences.extend(fences::before_models(&start));
    let sandbox = SandboxReport { fences };
    control.send(&ToDaemon::Ready { sandbox }.encode(), None)?;

    let shared = Arc::new(Shared::new(backend, Arc::new(arena), start.one_model));
    loop {
        let received = match control.receive_with_file() {
            Ok(received) => received,
            Err(Error::Closed) => return Ok(()),
            Err(error) => return Err(error),
        };
        match (ToWorker::decode(received.frame)?, received.file) {
            (ToWorker::Open, Some(file)) => lane::spawn(&shared, Lane::new(file), None)?,
            _ => return Err(FrameError::OutOfTurn.into()),
        }
    }
}
