use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::setup::{self, Ready};
use crate::{cache, demo, test};

/// The daemon and the floors, in release, and the conv net.
pub(super) struct Programs {
    pub(super) mast: PathBuf,
    /// ONNX Runtime alone.
    pub(super) runtime_floor: PathBuf,
    /// An axum server that sends back what it gets.
    pub(super) echo: PathBuf,
    /// Raw append and fdatasync.
    pub(super) disk_floor: PathBuf,
    /// The journal's own API.
    pub(super) append: PathBuf,
    pub(super) conv_net: PathBuf,
    pub(super) ready: Ready,
    _dir: TempDir,
}

impl Programs {
    pub(super) fn build() -> Result<Self> {
        let ready = setup::ensure()?;
        let root = cache::root();
        let dir = tempfile::Builder::new().prefix("mast-bench-").tempdir()?;
        let release = demo::build_release(&root)?;
        let example = |package: &str, name: &str| -> Result<PathBuf> {
            cargo_build(&root, &["--package", package, "--example", name])?;
            Ok(release.join("examples").join(name))
        };
        let runtime_floor = example("mast-engine-ort", "ort_floor")?;
        let echo = example("mast-front", "echo")?;
        let disk_floor = example("mast-journal", "disk_floor")?;
        let append = example("mast-journal", "append")?;
        let conv_net = dir.path().join("conv.onnx");
        let mut make = Command::new(&ready.python);
        make.arg("-B").arg(root.join("tests/bench/make_models.py")).arg(&conv_net);
        test::succeed(make)?;
        Ok(Self {
            mast: release.join("mast"),
            runtime_floor,
            echo,
            disk_floor,
            append,
            conv_net,
            ready,
            _dir: dir,
        })
    }

    /// Runs a program to its end; the JSON that it prints.
    pub(super) fn measure<S: AsRef<std::ffi::OsStr>>(&self, program: &Path, args: &[S]) -> Result<Value> {
        let output = Command::new(program)
            .args(args)
            .env("ORT_DYLIB_PATH", &self.ready.ort_library)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if !output.status.success() {
            bail!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn cargo_build(root: &Path, what: &[&str]) -> Result<()> {
    let mut command = test::cargo_command(root);
    command.args(["build", "--release", "--quiet"]).args(what);
    test::succeed(command)
}
