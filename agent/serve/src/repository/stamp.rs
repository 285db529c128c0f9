use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::Error;

/// Folders inside a version's folder that are looked into, and entries that are looked at.
const LIMIT_DEPTH: usize = 4;
const LIMIT_ENTRIES: usize = 10_000;

/// The files below a folder by path, with length and time of change: differs when one of them was touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stamp(BTreeMap<PathBuf, (u64, Option<SystemTime>)>);

impl Stamp {
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let mut stamp = Self::default();
        stamp.add(dir, LIMIT_DEPTH, &|_| true)?;
        Ok(stamp)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().fold(0, |sum, (len, _)| sum.saturating_add(*len))
    }

    fn add(&mut self, dir: &Path, depth: usize, wanted: &dyn Fn(&str) -> bool) -> Result<(), Error> {
        let error = |source| Error::Read { path: dir.to_owned(), source };
        for entry in std::fs::read_dir(dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            if !wanted(&entry.file_name().to_string_lossy()) {
                continue;
            }
            // What goes away while we look at it is not there. Follows links.
            let path = entry.path();
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if depth > 0 {
                    self.add(&path, depth - 1, &|_| true)?;
                }
            } else if self.0.len() < LIMIT_ENTRIES {
                self.0.insert(path, (metadata.len(), metadata.modified().ok()));
            }
        }
        Ok(())
    }
}

/// One model's folder as it lay at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// All but the versions: configuration, labels, warm-up data.
    pub(crate) config: Stamp,
    pub(crate) versions: BTreeMap<u64, Stamp>,
}

impl Seen {
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let mut seen = Self::default();
        seen.config
            .add(dir, LIMIT_DEPTH, &|name| super::version(name).is_none() && !name.starts_with('.'))?;
        for version in super::folders(dir)?.iter().filter_map(|name| super::version(name)) {
            seen.versions.insert(version, Stamp::of(&dir.join(version.to_string()))?);
        }
        Ok(seen)
    }
}
