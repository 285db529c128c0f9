//! Reading small kernel files under a root that tests can replace.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// No attribute that is read here is longer; /proc/cpuinfo of a large box is, and is cut.
const LIMIT_BYTES: u64 = 64 * 1024;

/// The trimmed text of an attribute; `None` when it is missing, unreadable or empty.
pub(crate) fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// An attribute that is a decimal number.
pub(crate) fn number(path: &Path) -> Option<u64> {
    text(path)?.parse().ok()
}

/// The entries of a folder by name; empty when there is no such folder.
pub(crate) fn entries(path: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The last component of a path as text.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The value after `key` and a colon in a file of `key : value` lines.
pub(crate) fn field(path: &Path, key: &str) -> Option<String> {
    text(path)?.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}
