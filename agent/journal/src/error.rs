use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the journal could not do what it was asked. Cloned to every caller of a failed commit group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A file operation failed; `operation` is a verb with its object, such as `create the directory`.
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk has no room (or its user quota is used up). Nothing was added; what is stored can still be taken.
    #[error("no room on the disk of {}: acknowledge records or free space, then append again", path.display())]
    DiskFull {
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    /// Another process, or another handle of this one, has the stream open.
    #[error("{} is in use by another process: stop it or choose another directory", path.display())]
    Locked { path: PathBuf },
    /// The files were written by another version of this program. Nothing was changed.
    #[error("{} has format {found}, this program reads format {supported}: start the version that wrote it", path.display())]
    Format { path: PathBuf, found: u32, supported: u32 },
    /// A value of [`StreamConfig`](crate::StreamConfig) that cannot work.
    #[error("bad journal configuration: {reason}")]
    Config { reason: &'static str },
    /// The record is larger than `record_limit_bytes`.
    #[error(
        "a record of {bytes} bytes is over the limit of {limit_bytes}: split it or raise record_limit_bytes"
    )]
    RecordTooLarge { bytes: u64, limit_bytes: u64 },
    /// The stream holds as much as it may. Nothing was stored.
    #[error(
        "the stream holds {held_bytes} of its quota of {quota_bytes} bytes: acknowledge or roll up old records, or raise quota_bytes"
    )]
    QuotaExceeded { held_bytes: u64, quota_bytes: u64 },
    /// An acknowledgement of a record that was never committed.
    #[error("cannot acknowledge up to {upto_seq}: the last committed record is {head_seq}")]
    BeyondHead { upto_seq: u64, head_seq: u64 },
    /// The writer thread is gone; open the stream again.
    #[error("the journal writer has stopped: open the stream again")]
    Stopped,
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let (path, full) = (path.to_path_buf(), is_full(&source));
        let source = Arc::new(source);
        if full { Self::DiskFull { path, source } } else { Self::Io { operation, path, source } }
    }
}

/// `ENOSPC` and `EDQUOT`: room can come back, unlike after other errors.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
