//! Where things are: the workspace, what cargo built, what `cargo xtask setup` fetched.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the workspace this harness was built from.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.to_owned(), Path::to_owned)
}

/// Where `cargo xtask setup` puts what it fetched: `<root>/.cache`, or `MAST_CACHE`.
pub fn cache() -> PathBuf {
    match std::env::var_os("MAST_CACHE") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join(".cache"),
    }
}

/// The interpreter of the virtual environment with the clients and the hub.
pub fn python() -> Result<PathBuf> {
    let path = cache().join("venv/bin/python");
    if !path.exists() {
        bail!("no {}: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

/// A program of this workspace: `MAST_BIN_DIR` if set, otherwise beside the running test or command.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dirs = match std::env::var_os("MAST_BIN_DIR") {
        Some(dir) => vec![PathBuf::from(dir)],
        None => {
            let exe = std::env::current_exe().context("cannot tell where this program is")?;
            exe.ancestors().skip(1).take(2).map(Path::to_owned).collect()
        }
    };
    let found = dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no program {name} in {dirs:?}: run `cargo build -p mast -p mast-tests`"))
}

/// The ONNX Runtime that `cargo xtask setup` fetched for this machine.
pub fn runtime_library() -> Result<PathBuf> {
    let dir = cache().join("onnxruntime");
    let ending = format!("-{}", std::env::consts::ARCH);
    let versions =
        std::fs::read_dir(&dir).with_context(|| format!("no {}: run `cargo xtask setup`", dir.display()))?;
    let mut found: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.to_string_lossy().ends_with(&ending));
    found.sort();
    let newest = found.pop().with_context(|| format!("no library for this machine in {}", dir.display()))?;
    Ok(newest.join("libonnxruntime.so"))
}

/// The model repository that `cargo xtask setup` built.
pub fn models() -> PathBuf {
    cache().join("models")
}

/// The test photos.
pub fn photos() -> PathBuf {
    cache().join("photos")
}
