//! The agent's directory on disk: made if need be, proved writable, and locked against a second agent.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;

use super::BuildError;

/// Holds the lock on the data directory for as long as the agent lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes and locks `path`. 0750: the group reaches the control socket and nobody else sees anything.
    pub(crate) fn open(path: &Path) -> Result<Self, BuildError> {
        let error = |source| BuildError::DataDir { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o750).create(path).map_err(error)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o640)
            .open(path.join("lock"))
            .map_err(error)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(BuildError::Locked { path: path.to_owned() }),
            Err(errno) => Err(error(io::Error::from(errno))),
        }
    }

    /// Opens the control socket, 0660: the owner and the group of the directory may control the agent. A socket
    /// that an agent left behind is replaced; the lock says that no other one is using it.
    pub(crate) fn listen(&self) -> Result<UnixListener, BuildError> {
        let path = self.path.join("control.sock");
        let error = |source| BuildError::Control { path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(error)?;
        fs::set_permissions(&path, Permissions::from_mode(0o660)).map_err(error)?;
        Ok(listener)
    }

    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }
}
