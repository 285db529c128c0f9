//! Invariant 2: each heavy dependency is named in one manifest. And one place for versions and lints: a member writes
//! `name.workspace = true`, and takes the workspace's lints.

use std::collections::BTreeMap;

use anyhow::Result;
use toml::{Table, Value};

use super::Tree;

const HEAVY: [&str; 11] = [
    "axum",
    "fast_image_resize",
    "image",
    "ort",
    "ort-sys",
    "rumqttc",
    "rumqttd",
    "sled",
    "tokenizers",
    "tonic",
    "wgpu",
];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (path, manifest) in tree.manifests()? {
        if path.contains("/fuzz/") {
            continue; // outside the workspace
        }
        if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&Value::Boolean(true)) {
            found.push(format!("{path}: no [lints] workspace = true"));
        }
        for (name, dependency) in dependencies(&manifest) {
            if dependency.get("workspace") != Some(&Value::Boolean(true)) {
                found.push(format!("{path}: {name} is not taken from the workspace"));
            }
            if let Some(heavy) = HEAVY.iter().find(|heavy| **heavy == name) {
                let owners = owners.entry(heavy).or_default();
                if owners.last() != Some(&path) {
                    owners.push(path);
                }
            }
        }
    }
    for (name, owners) in owners.into_iter().filter(|(_, owners)| owners.len() > 1) {
        found.push(format!("{name} is named in {}", owners.join(" and ")));
    }
    Ok(found)
}

fn dependencies(manifest: &Table) -> Vec<(String, Value)> {
    let mut tables: Vec<&Table> = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(Value::as_table) {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let all = tables.iter().flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)?.as_table()));
    all.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaches() {
        let lints = "[lints]\nworkspace = true\n";
        let check = |a: &str, b: &str, count: usize| {
            let (a, b) = (format!("{lints}{a}"), format!("{lints}{b}"));
            let tree = Tree::of(&[("agent/a/Cargo.toml", &a), ("agent/b/Cargo.toml", &b)]);
            assert_eq!(super::check(&tree).unwrap().len(), count, "{a} {b}");
        };
        check("[dependencies]\nsled.workspace = true", "[dependencies]\nserde.workspace = true", 0);
        check("[dependencies]\nsled.workspace = true", "[dev-dependencies]\nsled.workspace = true", 1);
        check("[dependencies]\nserde = \"1\"", "", 1);
        check("[target.'cfg(unix)'.dependencies]\nserde = { version = \"1\" }", "", 1);
        assert_eq!(super::check(&Tree::of(&[("agent/a/Cargo.toml", "")])).unwrap().len(), 1);
    }
}
