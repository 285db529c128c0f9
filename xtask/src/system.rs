//! Programs of the system that the tests run: installed with apt where they are missing.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// What must run, how to tell, and the Debian package that brings it.
const NEEDED: [(&str, &[&str], &str); 5] = [
    ("mosquitto", &["mosquitto", "-h"], "mosquitto"),
    ("systemd-analyze", &["systemd-analyze", "--version"], "systemd"),
    ("the venv module of python3", &["python3", "-c", "import venv, ensurepip"], "python3-venv"),
    ("openssl", &["openssl", "version"], "openssl"),
    ("mount", &["mount", "--version"], "mount"),
];

pub(crate) fn ensure() -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(what, _)| *what).collect();
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    println!("missing: {}", names.join(", "));
    install(&packages).or_else(|_| install(&packages)).with_context(|| {
        format!("cannot install it; as root: apt-get update && apt-get install {}", packages.join(" "))
    })?;
    match self::missing().first() {
        Some((what, package)) => bail!("{what} is still missing after installing {package}"),
        None => Ok(()),
    }
}

fn missing() -> Vec<(&'static str, &'static str)> {
    let runs = |command: &[&str]| {
        // Debian keeps daemons in sbin, which the PATH of a user may lack. mosquitto -h ends with 3: that it starts is enough.
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let output = Command::new(command[0]).args(&command[1..]).env("PATH", path).output();
        output.is_ok_and(|output| output.status.success() || command[0] == "mosquitto")
    };
    NEEDED
        .into_iter()
        .filter(|(_, command, _)| !runs(command))
        .map(|(what, _, package)| (what, package))
        .collect()
}

pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let mut update = Command::new("apt-get");
    update.args(["update", "-q"]);
    crate::test::succeed(update)?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    crate::test::succeed(install)
}
