//! The model repository on disk, laid out as Triton's is.
//!
//! ```text
//! <root>/<model>/config.pbtxt            Triton's words about the model; optional
//! <root>/<model>/model.toml              Mast's own; optional, and both may be there
//! <root>/<model>/<labels>                named by either
//! <root>/<model>/warmup/<data>           named by model_warmup
//! <root>/<model>/<version>/model.onnx    version: a positive number without leading zeros
//! ```
//!
//! `model.onnx` (or what `default_model_filename` names) is a file, beside which external data may lie, or a folder
//! that holds a `model.onnx` and its external data. A model's name is its folder's name: UTF-8, 1 to 128 bytes, no
//! '/', no leading '.', no control character. Other files are the operator's business.

mod stamp;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::model_config::Pbtxt;
use crate::{Error, ModelConfig};

pub(crate) use stamp::{Seen, Stamp};

/// Bytes of a configuration that are read.
const LIMIT_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Repository {
    root: PathBuf,
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

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The versions that have a folder, ascending, also when they then turn out to be unusable.
    pub(crate) fn versions(&self, name: &str) -> Result<Vec<u64>, Error> {
        if !self.has(name) {
            return Err(Error::NoModel);
        }
        let mut versions: Vec<_> = folders(&self.dir(name))?.iter().filter_map(|it| version(it)).collect();
        versions.sort_unstable();
        if versions.is_empty() { Err(Error::NoVersion) } else { Ok(versions) }
    }

    /// What the folder's files say of the model; `json` stands for its `config.pbtxt`.
    pub(crate) fn config(&self, name: &str, json: Option<&str>) -> Result<ModelConfig, Error> {
        let dir = self.dir(name);
        let toml = read(dir.join("model.toml"))?;
        let text = if json.is_none() { read(dir.join("config.pbtxt"))? } else { None };
        let pbtxt = json.map(Pbtxt::Json).or(text.as_deref().map(Pbtxt::Text));
        ModelConfig::read(name, toml.as_deref(), pbtxt)
    }

    /// The file of a version that the runtime opens.
    pub(crate) fn file(&self, name: &str, version: u64, config: &ModelConfig) -> Result<PathBuf, Error> {
        let file = config.model_filename.as_deref().unwrap_or("model.onnx");
        let path = self.dir(name).join(version.to_string()).join(file);
        if path.is_file() {
            return Ok(path);
        }
        let inside = path.join("model.onnx");
        if inside.is_file() { Ok(inside) } else { Err(Error::NoFile { version, file: file.to_owned() }) }
    }

    /// What lies there now.
    pub(crate) fn see(&self, name: &str) -> Result<Seen, Error> {
        Seen::of(&self.dir(name))
    }
}

fn read(path: PathBuf) -> Result<Option<String>, Error> {
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let mut text = String::new();
    match file.take(LIMIT_BYTES + 1).read_to_string(&mut text) {
        Ok(len) if len > usize::try_from(LIMIT_BYTES).unwrap_or(usize::MAX) => {
            let source = io::Error::other(format!("it is over {LIMIT_BYTES} bytes long"));
            Err(Error::Read { path, source })
        }
        Ok(_) => Ok(Some(text)),
        Err(source) => Err(Error::Read { path, source }),
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
    fn versions_and_their_files_are_found() {
        let root = tempfile::tempdir().unwrap();
        let repository = Repository::new(root.path().to_owned());
        for version in ["1", "9", "10", "old"] {
            std::fs::create_dir_all(root.path().join("m").join(version)).unwrap();
        }
        std::fs::create_dir_all(root.path().join("empty")).unwrap();
        std::fs::create_dir_all(root.path().join(".git")).unwrap();
        File::create(root.path().join("README.md")).unwrap();
        assert_eq!(repository.names().unwrap(), ["empty", "m"]);
        assert_eq!(repository.versions("m").unwrap(), [1, 9, 10]);
        assert!(matches!(repository.versions("empty"), Err(Error::NoVersion)));
        assert!(matches!(repository.versions("../m"), Err(Error::NoModel)));

        let mut config = repository.config("m", None).unwrap();
        assert_eq!(config, ModelConfig { completes: true, ..ModelConfig::default() });
        let file = |version, config: &ModelConfig| repository.file("m", version, config);
        assert!(matches!(file(10, &config), Err(Error::NoFile { version: 10, .. })));
        File::create(root.path().join("m/10/model.onnx")).unwrap();
        assert!(file(10, &config).unwrap().ends_with("m/10/model.onnx"));
        // A folder with external data.
        std::fs::create_dir(root.path().join("m/9/model.onnx")).unwrap();
        File::create(root.path().join("m/9/model.onnx/model.onnx")).unwrap();
        assert!(file(9, &config).unwrap().ends_with("m/9/model.onnx/model.onnx"));
        config.model_filename = Some("other.onnx".to_owned());
        assert!(file(10, &config).unwrap_err().to_string().contains("other.onnx"));
    }
}
