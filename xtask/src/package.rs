//! Fetches an archive from a registry with the registry's own client, checks its digest, takes files out of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cache;
use crate::catalog::{Package, Registry};
use crate::python::{self, finish, twice};
use crate::step::Step;

/// Is npm there? Where it is not, what comes from npm is skipped.
pub(crate) fn npm_present() -> bool {
    let version = Command::new("npm").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// Wheels are taken for CPython 3.11 and this platform whatever runs here: what is wanted is inside, not installed.
const PLATFORMS: [&str; 3] = ["manylinux_2_28", "manylinux_2_27", "manylinux_2_24"];

/// Downloads the archive of `package` (for `arch`, where there is a choice) and checks its sha256.
pub(crate) fn fetch(cache: &Path, python: &Path, package: &Package, arch: &str) -> Result<PathBuf> {
    let dir = cache.join("downloads");
    cache::make_dir(&dir)?;
    let path = dir.join(&package.file);
    if path.exists() && cache::expect_sha256(&path, &package.sha256).is_ok() {
        return Ok(path);
    }
    let step = Step::begin(format!("package {}", package.id), "downloading");
    twice(|| match package.registry {
        Registry::Pypi => {
            step.bytes(package.bytes);
            let mut pip = python::pip(python, "download");
            pip.args([
                "--no-deps",
                "--only-binary=:all:",
                "--python-version",
                "3.11",
                "--implementation",
                "cp",
            ]);
            for platform in PLATFORMS {
                pip.arg("--platform").arg(format!("{platform}_{arch}"));
            }
            pip.arg("--dest").arg(&dir).arg(format!("{}=={}", package.name, package.version));
            finish(pip, &mut |line| {
                if let Some(at) =
                    line.strip_prefix("Progress ").and_then(|l| l.split(' ').next()?.parse().ok())
                {
                    step.at(at);
                }
            })
        }
        Registry::Npm => {
            let mut npm = Command::new("npm");
            step.doing(format!("downloading {} MB", package.bytes / 1_000_000)); // npm tells no progress to a pipe
            npm.args(["pack", "--ignore-scripts", "--silent", "--pack-destination"]).arg(&dir);
            npm.arg(format!("{}@{}", package.name, package.version)).current_dir(&dir);
            finish(npm, &mut |_| {})
        }
    })
    .with_context(|| {
        format!("cannot download {} {}; is the registry reachable?", package.name, package.version)
    })?;
    step.doing("checking its sha256");
    if let Err(wrong) = cache::expect_sha256(&path, &package.sha256) {
        let kept = path.with_extension("refused");
        cache::replace(&path, &kept).ok();
        return Err(wrong.context(format!(
            "the registry serves another {} {} than the one that was examined; it is at {}",
            package.name,
            package.version,
            kept.display()
        )));
    }
    step.done(&format!("{} {}, sha256 {}", package.name, package.version, &package.sha256[..16]));
    Ok(path)
}

/// Takes `members` out of an archive into `dir`, each under its last path component.
pub(crate) fn unpack(python: &Path, archive: &Path, dir: &Path, members: &[String]) -> Result<()> {
    let mut command = python::recipe(python, "unpack.py");
    command.arg("--out").arg(dir).arg(archive).args(members);
    finish(command, &mut |_| {}).with_context(|| format!("cannot unpack {}", archive.display()))
}

/// Removes an archive that is no longer needed.
pub(crate) fn discard(archive: &Path) -> Result<()> {
    std::fs::remove_file(archive).with_context(|| format!("cannot remove {}", archive.display()))
}
