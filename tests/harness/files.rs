//! Files of a test's temporary directory.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes a file and the folders above it.
pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let mut file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(content.as_ref()).with_context(|| format!("cannot write {}", path.display()))
}

/// Lays a model into a repository: `<repository>/<model>/<version>/model.onnx`, and its `model.toml` if there is one.
pub fn add_model(repository: &Path, model: &str, version: u64, onnx: &[u8], toml: &str) -> Result<PathBuf> {
    let dir = repository.join(model);
    write(dir.join(version.to_string()).join("model.onnx"), onnx)?;
    if !toml.is_empty() {
        write(dir.join("model.toml"), toml)?;
    }
    Ok(dir)
}

/// Every file below `dir`, in no order.
pub fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(walk(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}
