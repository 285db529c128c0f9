//! The model repository on disk.
//!
//! ```text
//! <root>/<model>/model.toml              what is Mast's own about the model; optional
//! <root>/<model>/<version>/model.onnx    version: a positive number without leading zeros
//! ```
//!
//! A model's name is its folder's name: UTF-8, 1 to 128 bytes, no '/', no leading '.', no control character.
//! Other files are the operator's business. The newest version is the one that is served.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, ModelConfig};

#[derive(Debug)]
pub(crate) struct Repository {
    root: PathBuf,
}

/// A model as it lies on disk.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) version: u64,
    pub(crate) file: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) config: ModelConfig,
}

impl Repository {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The names of all model folders, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>, Error> {
        let mut names: Vec<_> = folders(&self.root)?.into_iter().filter(|name| is_name(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Whether there is a folder for `name`, which may come from the network.
    pub(crate) fn has(&self, name: &str) -> bool {
        is_name(name) && self.root.join(name).is_dir()
    }

    /// The newest version, also when it then turns out to be unusable.
    pub(crate) fn newest(&self, name: &str) -> Result<u64, Error> {
        if !self.has(name) {
            return Err(Error::NoModel);
        }
        let versions = folders(&self.root.join(name))?;
        versions.iter().filter_map(|folder| version(folder)).max().ok_or(Error::NoVersion)
    }

    pub(crate) fn find(&self, name: &str, version: u64) -> Result<Found, Error> {
        let dir = self.root.join(name);
        let path = dir.join("model.toml");
        let config = match std::fs::read_to_string(&path) {
            Ok(text) => ModelConfig::parse(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => ModelConfig::default(),
            Err(source) => return Err(Error::Read { path, source }),
        };
        let file = dir.join(version.to_string()).join("model.onnx");
        if !file.is_file() {
            return Err(Error::NoFile { version });
        }
        Ok(Found { version, file, dir, config })
    }
}

fn folders(dir: &Path) -> Result<Vec<String>, Error> {
    let error = |source| Error::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        // Follows links: a repository may be made of them.
        if entry.path().is_dir() {
            match entry.file_name().into_string() {
                Ok(name) => names.push(name),
                Err(name) => tracing::warn!(?name, "a folder of the model repository is not UTF-8"),
            }
        }
    }
    Ok(names)
}

fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control)
}

fn version(folder: &str) -> Option<u64> {
    let digits = !folder.starts_with('0') && folder.bytes().all(|byte| byte.is_ascii_digit());
    folder.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_network_cannot_leave_the_repository() {
        let check = |name: &str, expected| assert_eq!(is_name(name), expected, "{name:?}");
        check("efficientnet-lite0", true);
        check("Größe 2", true);
        for name in
            ["", ".", "..", "../etc", "/etc", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", &"x".repeat(129)]
        {
            check(name, false);
        }
    }

    #[test]
    fn versions_are_positive_numbers() {
        let check = |folder: &str, expected| assert_eq!(version(folder), expected, "{folder:?}");
        check("1", Some(1));
        check("20", Some(20));
        for folder in ["0", "01", "-1", "+1", "1a", "", "99999999999999999999"] {
            check(folder, None);
        }
    }

    #[test]
    fn the_newest_version_is_found() {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::new(root.path().to_owned());
        for version in ["1", "9", "10", "old"] {
            std::fs::create_dir_all(root.path().join("m").join(version)).unwrap();
        }
        std::fs::create_dir_all(root.path().join("empty")).unwrap();
        std::fs::create_dir_all(root.path().join(".git")).unwrap();
        std::fs::File::create(root.path().join("README.md")).unwrap();
        assert_eq!(repository.names().unwrap(), ["empty", "m"]);
        assert_eq!(repository.newest("m").unwrap(), 10);
        assert!(matches!(repository.newest("empty"), Err(Error::NoVersion)));
        assert!(matches!(repository.newest("../m"), Err(Error::NoModel)));
        assert!(matches!(repository.find("m", 10), Err(Error::NoFile { version: 10 })));
        std::fs::File::create(root.path().join("m/10/model.onnx")).unwrap();
        assert_eq!(repository.find("m", 10).unwrap().config, ModelConfig::default());
    }
}
