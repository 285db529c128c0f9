//! Invariant 1: the request path builds without any crate that a front, a runtime, MQTT or the disk brings.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Tree;

const FOREIGN: [&str; 11] = [
    "axum",
    "hyper",
    "tonic",
    "rumqttc",
    "rumqttc-v5-next",
    "ort",
    "ort-sys",
    "wgpu",
    "sled",
    "mast-journal",
    "mast-link",
];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["tree", "--package", "mast-serve", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(&tree.root)
        .output()
        .context("cannot run cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(foreign(&String::from_utf8_lossy(&output.stdout)))
}

fn foreign(listing: &str) -> Vec<String> {
    let names = listing.lines().filter_map(|line| line.split_whitespace().next());
    let mut found: Vec<String> =
        names.filter(|name| FOREIGN.contains(name)).map(|name| format!("mast-serve needs {name}")).collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_listing_of_cargo() {
        assert_eq!(foreign("mast-serve v0.1.0 (path)\ntokio v1.54.0\nserde v1.0.0 (*)\n"), [""; 0]);
        assert_eq!(foreign("mast-serve v0.1.0\naxum v0.8.9\nsled v0.34.7\n").len(), 2);
    }
}
