//! Invariant 2: no sled type leaves the journal: nobody else names sled, and no public signature of the journal does.

use anyhow::Result;

use super::tree::{Tree, code, find};

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let others =
        tree.rust().filter(|(path, _)| !path.starts_with("agent/journal/") && !path.starts_with("xtask/"));
    let mut found = find(others, &["sled::", "use sled"]);
    for (path, text) in tree.product().filter(|(path, _)| path.starts_with("agent/journal/")) {
        for (number, line) in code(text) {
            let public = line.trim_start().starts_with("pub ");
            if public && line.contains("sled::") {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks() {
        let check = |path: &str, text: &str, count: usize| {
            assert_eq!(super::check(&Tree::of(&[(path, text)])).unwrap().len(), count, "{path}: {text}");
        };
        check("agent/journal/src/index.rs", "    pub(crate) tree: sled::Tree,", 0);
        check("agent/journal/src/stream.rs", "    pub fn tree(&self) -> &sled::Tree {", 1);
        check("agent/mast/src/app.rs", "use sled::Db;", 2);
    }
}
