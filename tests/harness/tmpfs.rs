use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A small file system of its own: the only honest full or read-only disk for a test that runs as root.
#[derive(Debug)]
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Needs root. `bytes` is its whole size.
    pub fn mount(bytes: u64) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        mount(&["-t", "tmpfs", "-o", &format!("size={bytes},mode=0755"), "tmpfs"], dir.path())?;
        Ok(Self { dir })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn make_read_only(&self) -> Result<()> {
        mount(&["-o", "remount,ro"], self.path())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}

fn mount(args: &[&str], at: &Path) -> Result<()> {
    let output = Command::new("mount").args(args).arg(at).output().context("cannot run mount")?;
    if !output.status.success() {
        bail!("cannot mount at {}: {}", at.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Tests that need a mount ask here first. Where mounting is not possible they fail, unless whoever runs them said that they
/// know (`MAST_TESTS_WITHOUT_MOUNT=1`, which `cargo xtask test` sets after it has said so): never a silent skip.
pub fn mounting_is_possible() -> Result<bool> {
    match Tmpfs::mount(1 << 20) {
        Ok(_) => Ok(true),
        Err(_) if std::env::var_os("MAST_TESTS_WITHOUT_MOUNT").is_some() => Ok(false),
        Err(error) => {
            Err(error.context("this test mounts a tmpfs: run it as root, or set MAST_TESTS_WITHOUT_MOUNT=1"))
        }
    }
}
