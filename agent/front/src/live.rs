//! What is read from files and replaced as a whole when they change, without a restart. What cannot be used
//! never replaces what can: the one in use stays, and the failure is told in the log, the status and a metric.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use wire::chain;

use crate::Error;

/// The longest file of certificates or keys.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

type Read<T> = Box<dyn Fn(Option<&T>) -> Result<T, Error> + Send + Sync>;

pub(crate) struct Live<T> {
    /// For the log: "certificate", "keys".
    name: &'static str,
    files: Vec<PathBuf>,
    read: Read<T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
    failures: AtomicU64,
}

/// The files at the last look.
struct Seen {
    prints: Vec<Option<Print>>,
    /// Why they were not taken.
    failure: Option<String>,
}

impl<T> Live<T> {
    /// `read` is given what is in use, if anything is.
    pub(crate) fn load(name: &'static str, files: Vec<PathBuf>, read: Read<T>) -> Result<Self, Error> {
        // Before the files are read: a change meanwhile is seen the next time.
        let prints = files.iter().map(|file| Print::of(file)).collect();
        let current = RwLock::new(Arc::new(read(None)?));
        let seen = Mutex::new(Seen { prints, failure: None });
        Ok(Self { name, files, read, current, seen, failures: AtomicU64::new(0) })
    }

    pub(crate) fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what the files hold now if they are not what they were at the last look, or if `anyway`. What could
    /// not be used is tried again at each look, and told once. Blocks on the disk.
    pub(crate) fn look(&self, anyway: bool) -> Result<(), Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let prints: Vec<_> = self.files.iter().map(|file| Print::of(file)).collect();
        let changed = prints != seen.prints;
        if !changed && !anyway && seen.failure.is_none() {
            return Ok(());
        }
        match (self.read)(Some(&self.current())) {
            Ok(new) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                *seen = Seen { prints, failure: None };
                tracing::info!(what = self.name, "read again and in use");
                Ok(())
            }
            Err(error) => {
                let failure = chain(&error);
                if changed || anyway || seen.failure.as_ref() != Some(&failure) {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        what = self.name,
                        error = failure,
                        "cannot be used; the one before stays in use"
                    );
                }
                *seen = Seen { prints, failure: Some(failure) };
                Err(error)
            }
        }
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Why the files as they are now are not in use.
    pub(crate) fn failure(&self) -> Option<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).failure.clone()
    }
}

impl<T> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("name", &self.name).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Tells a file from what stood in its place before, whatever the clock said at either time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    length: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// A whole small file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    whole(file).map_err(failed)
}

/// The same of a file that must not be open to every user.
pub(crate) fn read_secret(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o007 != 0 {
        return Err(Error::OpenToAll { path: path.to_owned() });
    }
    whole(file).map_err(failed)
}

fn whole(file: File) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut content)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_LIMIT_BYTES) {
        Ok(content)
    } else {
        Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is over 4 MiB"))
    }
}
