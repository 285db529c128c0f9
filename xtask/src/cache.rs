//! The git-ignored cache: where things are, whether they are what they should be, and whether that is still known.
//!
//! ```text
//! .cache/                       or $MAST_CACHE
//!   lock                        held while anything below is being made
//!   stamps/<part>               what a part was made from and which files came out, so that a second run is instant
//!   downloads/                  archives, kept until their part is made
//!   onnxruntime/<version>-<arch>/   the library, its licence and notices
//!   venv/, pycache/             Python packages of models/requirements.txt, and their bytecode
//!   sources/<package>/          the files that recipes read
//!   models/<model>/             the model repository
//!   photos/, calibration-photos/   by the names of the catalogue
//! ```

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The repository's root: where cargo found the manifest of this package, one up.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The cache folder, absolute; made if it is not there.
pub(crate) fn dir() -> Result<PathBuf> {
    let dir = match std::env::var_os("MAST_CACHE") {
        Some(dir) if !dir.is_empty() => std::path::absolute(dir)?,
        _ => root().join(".cache"),
    };
    make_dir(&dir)?;
    Ok(dir)
}

pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))
}

/// Wheels are unpacked without the permission to run what they hold.
pub(crate) fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).with_context(|| format!("cannot change {}", path.display()))
}

/// Held while the cache is changed, so that two commands at once do not build the same thing; released on drop.
pub(crate) fn lock(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another cargo xtask that is filling {}", cache.display());
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// SHA-256 of a file, lower-case hexadecimal.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if n == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// SHA-256 of several byte strings, with their lengths, so that moving a byte from one to the next changes it.
pub(crate) fn sha256_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

/// Fails, naming both digests, if the file is not the expected one.
pub(crate) fn expect_sha256(path: &Path, expected: &str) -> Result<()> {
    let found = sha256_file(path)?;
    if found != expected {
        bail!("{} has sha256 {found}, expected {expected}", path.display());
    }
    Ok(())
}

/// Puts a finished file or folder in its place, replacing what was there.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_dir(parent)?;
    }
    if to.is_dir() && from.is_dir() {
        fs::remove_dir_all(to).with_context(|| format!("cannot remove the old {}", to.display()))?;
    }
    fs::rename(from, to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// What a part of the cache was made from, and the files that came out of it.
///
/// The stamp is written last; without it, or if a file changed its size or time since, the part is made again.
pub(crate) struct Stamp {
    path: PathBuf,
    key: String,
}

impl Stamp {
    /// `key`: a digest of everything the part depends on.
    pub(crate) fn new(cache: &Path, part: &str, key: String) -> Self {
        Self { path: cache.join("stamps").join(part), key }
    }

    /// Are these files the ones that the last [`Self::write`] saw, made from the same things?
    pub(crate) fn holds(&self, files: &[PathBuf]) -> bool {
        let Ok(recorded) = fs::read_to_string(&self.path) else { return false };
        self.text(files).is_ok_and(|text| text == recorded)
    }

    pub(crate) fn write(&self, files: &[PathBuf]) -> Result<()> {
        if let Some(parent) = self.path.parent() {
            make_dir(parent)?;
        }
        let temp = self.path.with_extension("new");
        let mut file = File::create(&temp).with_context(|| format!("cannot write {}", temp.display()))?;
        file.write_all(self.text(files)?.as_bytes())?;
        replace(&temp, &self.path)
    }

    /// Forgets the part: it is made again next time.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    fn text(&self, files: &[PathBuf]) -> Result<String> {
        let mut text = format!("{}\n", self.key);
        for path in files {
            let meta = fs::metadata(path).with_context(|| format!("{} is missing", path.display()))?;
            let changed = meta.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
            writeln!(text, "{} {changed} {}", meta.len(), path.display())?;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_stamp_holds_until_key_file_or_stamp_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.onnx");
        let files = [file.clone()];
        write(&file, "weights");
        let stamp = |key: &str| Stamp::new(dir.path(), "model", key.to_owned());
        assert!(!stamp("a").holds(&files), "no stamp yet");
        stamp("a").write(&files).unwrap();
        assert!(stamp("a").holds(&files));
        assert!(!stamp("b").holds(&files), "made from something else");
        write(&file, "truncated"); // a power cut in the middle of another program's write
        assert!(!stamp("a").holds(&files), "file changed");
        stamp("a").write(&files).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(!stamp("a").holds(&files), "file gone");
        assert!(stamp("a").write(&files).is_err(), "nothing to stamp");
        stamp("a").remove().unwrap();
        stamp("a").remove().unwrap();
    }

    #[test]
    fn digests_are_those_of_fips_180_4() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        write(&path, "abc");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_file(&path).unwrap(), abc);
        expect_sha256(&path, abc).unwrap();
        let refused = expect_sha256(&path, "00").unwrap_err().to_string();
        assert!(refused.contains(abc) && refused.contains("expected 00"), "{refused}");
        assert_ne!(sha256_parts([&b"ab"[..], b"c"]), sha256_parts([&b"a"[..], b"bc"]));
    }
}
