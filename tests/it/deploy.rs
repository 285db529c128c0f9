//! What is shipped beside the binary: the unit is valid, and sandboxed as far as systemd can tell.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{files, workspace};

/// `systemd-analyze security` counts exposure from 0 (tight) to 100; services without a sandbox have 96.
const EXPOSURE_LIMIT: &str = "20";

fn units() -> Result<Vec<PathBuf>> {
    let units = files::walk(&workspace::root().join("deploy/systemd"))?;
    let units: Vec<PathBuf> =
        units.into_iter().filter(|path| path.extension().is_some_and(|end| end == "service")).collect();
    ensure!(!units.is_empty(), "no unit in deploy/systemd");
    Ok(units)
}

fn analyze(args: &[&str], unit: &PathBuf) -> Result<()> {
    let output = Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
        .context("cannot run systemd-analyze")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "systemd-analyze {args:?} {}:\n{said}", unit.display());
    Ok(())
}

#[test]
fn units_are_valid() -> Result<()> {
    // The program must exist for the verdict: the unit is checked with the path of the one built here in its place.
    let dir = tempfile::tempdir()?;
    let program = workspace::binary("mast")?;
    for unit in units()? {
        let text = std::fs::read_to_string(&unit)?;
        ensure!(text.contains("/usr/bin/mast"), "{} does not start /usr/bin/mast", unit.display());
        let copy = dir.path().join(unit.file_name().context("a unit has a name")?);
        files::write(&copy, text.replace("/usr/bin/mast", &program.to_string_lossy()))?;
        analyze(&["verify"], &copy)?;
    }
    Ok(())
}

#[test]
fn units_are_sandboxed() -> Result<()> {
    for unit in units()? {
        let threshold = format!("--threshold={EXPOSURE_LIMIT}");
        analyze(&["security", "--offline=yes", &threshold], &unit)?;
    }
    Ok(())
}
