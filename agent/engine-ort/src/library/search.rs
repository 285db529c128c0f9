//! Where a library may lie. A place that the operator names is the only one that is looked at.

use std::path::{Path, PathBuf};

use crate::Error;

const PACKAGE_DIR: &str = "/usr/lib/mast";
const FILE_PREFIX: &str = "libonnxruntime.so";

/// What the search depends on besides the configuration.
pub(super) struct Places {
    /// `ORT_DYLIB_PATH`
    pub(super) named: Option<PathBuf>,
    pub(super) package_dir: PathBuf,
    /// Folders whose ancestors may be a checkout with `.cache/onnxruntime`.
    pub(super) below_checkout: Vec<PathBuf>,
}

impl Places {
    pub(super) fn of_this_process() -> Self {
        let named = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty());
        let below_checkout = [std::env::current_dir(), std::env::current_exe()].into_iter().flatten();
        Self {
            named: named.map(PathBuf::from),
            package_dir: PathBuf::from(PACKAGE_DIR),
            below_checkout: below_checkout.collect(),
        }
    }
}

pub(super) fn find(configured: Option<&Path>, places: &Places) -> Result<PathBuf, Error> {
    if let Some(named) = configured.or(places.named.as_deref()) {
        return named.canonicalize().map_err(|_| Error::NotFound { searched: vec![named.to_owned()] });
    }
    let mut searched = vec![places.package_dir.clone()];
    searched.extend(caches(&places.below_checkout));
    let found = searched.iter().find_map(|dir| newest(dir)).and_then(|path| path.canonicalize().ok());
    found.ok_or(Error::NotFound { searched })
}

/// `.cache/onnxruntime/<version>-<architecture>` of the checkouts, newest version first.
fn caches(below: &[PathBuf]) -> Vec<PathBuf> {
    let suffix = format!("-{}", super::elf::THIS_ARCHITECTURE);
    let mut found = Vec::new();
    for ancestor in below.iter().flat_map(|path| path.ancestors()) {
        let mut dirs = entries(&ancestor.join(".cache/onnxruntime"));
        dirs.retain(|dir| file_name(dir).ends_with(&suffix));
        dirs.sort_by_key(|dir| std::cmp::Reverse(numbers(file_name(dir).trim_end_matches(&suffix))));
        found.extend(dirs);
    }
    found.dedup();
    found
}

/// The library with the highest version in its name; `.so.1.28.0.sha256` and the like are no library.
fn newest(dir: &Path) -> Option<PathBuf> {
    let version = |path: &PathBuf| file_name(path).strip_prefix(FILE_PREFIX).map(str::to_owned);
    let is_version = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let files = entries(dir).into_iter();
    let versions = files.filter_map(|path| Some((version(&path).filter(is_version)?, path)));
    versions.max_by_key(|(version, _)| numbers(version)).map(|(_, path)| path)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}
