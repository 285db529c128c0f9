//! Invariant 3 and the direction of dependencies: words, then mechanisms, then paths, then `mast`; no arrow back, none between
//! paths but front on serve, and `link` knows `egress` only. Build and normal dependencies count, those of tests do not.

use anyhow::Result;

use super::Tree;

/// Which of ours each crate of the agent may name.
const ALLOWED: [(&str, &[&str]); 12] = [
    ("wire", &["egress", "engine"]),
    ("egress", &[]),
    ("engine", &[]),
    ("journal", &[]),
    ("triton", &[]),
    ("engine-ort", &["engine"]),
    ("engine-process", &["engine"]),
    ("serve", &["engine", "triton", "wire"]),
    ("media", &["engine", "serve", "wire"]),
    ("front", &["engine", "media", "serve", "triton", "wire"]),
    ("link", &["egress"]),
    (
        "mast",
        &[
            "egress",
            "engine",
            "engine-ort",
            "engine-process",
            "front",
            "journal",
            "link",
            "media",
            "serve",
            "wire",
        ],
    ),
];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, manifest) in tree.manifests()? {
        let Some(name) = path.strip_prefix("agent/").and_then(|path| path.strip_suffix("/Cargo.toml")) else {
            continue;
        };
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            found.push(format!("{path}: a crate without a layer; give it one in {}", file!()));
            continue;
        };
        let named = ["dependencies", "build-dependencies"]
            .into_iter()
            .filter_map(|key| manifest.get(key)?.as_table());
        for dependency in named.flat_map(|table| table.keys()) {
            let ours = ALLOWED.iter().any(|(known, _)| known == dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                found.push(format!("{path}: {name} must not depend on {dependency}"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_back() {
        let check = |path: &str, text: &str, count: usize| {
            assert_eq!(super::check(&Tree::of(&[(path, text)])).unwrap().len(), count, "{path}: {text}");
        };
        check("agent/link/Cargo.toml", "[dependencies]\negress.workspace = true\nserde.workspace = true", 0);
        check("agent/link/Cargo.toml", "[dependencies]\nwire.workspace = true", 1);
        check("agent/link/Cargo.toml", "[dev-dependencies]\njournal.workspace = true", 0);
        check("agent/serve/Cargo.toml", "[dependencies]\nfront.workspace = true", 1);
        check("agent/wire/Cargo.toml", "[build-dependencies]\nserve.workspace = true", 1);
        check("agent/novel/Cargo.toml", "", 1);
    }

    /// The table itself is acyclic: each crate names only crates that can be ordered before it.
    #[test]
    fn the_table_has_an_order() {
        let mut ordered: Vec<&str> = Vec::new();
        for _ in 0..ALLOWED.len() {
            for (name, below) in ALLOWED {
                if !ordered.contains(&name) && below.iter().all(|below| ordered.contains(below)) {
                    ordered.push(name);
                }
            }
        }
        assert_eq!(ordered.len(), ALLOWED.len(), "{ordered:?}");
    }
}
