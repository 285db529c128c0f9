//! Small files replaced whole: a reader, or a power cut, finds the old content or the new, never a mixture.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, Mode, OsDisk, write_all_at};
use crate::error::Error;

/// Replaces the content of `path` with `bytes`: temporary file beside it → write → fsync → rename → fsync of the directory.
///
/// The temporary file is `<name>.tmp`: two writers of one path must not run at once. The directory must exist.
///
/// # Errors
/// [`Error::DiskFull`] or [`Error::Io`]; the old content is then still in place, except when only the last fsync failed.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_on(&OsDisk, path, bytes)
}

pub(crate) fn write_on(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = disk
        .open(&temporary, Mode::Create)
        .and_then(|file| {
            write_all_at(&*file, bytes, 0)?;
            file.sync_data()
        })
        .map_err(|source| Error::io("write", &temporary, source))
        .and_then(|()| disk.rename(&temporary, path).map_err(|source| Error::io("replace", path, source)));
    if let Err(error) = written {
        // Best effort: the next write truncates it anyway.
        drop(disk.remove(&temporary));
        return Err(error);
    }
    let dir = parent(path);
    disk.sync_dir(&dir).map_err(|source| Error::io("sync the directory", &dir, source))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for content in [&b"first"[..], b"", b"a longer third content"] {
            write(&path, content).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, b"old").unwrap();
        std::fs::create_dir(dir.path().join("state.tmp")).unwrap();
        let error = write(&path, b"new").unwrap_err();
        assert!(matches!(error, Error::Io { operation: "write", .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }
}
