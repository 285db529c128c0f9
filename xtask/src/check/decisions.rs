//! docs/decisions: `NNNN-title.md`, each number once.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Tree;

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut by_number: BTreeMap<&str, &str> = BTreeMap::new();
    for path in tree.files.keys() {
        let Some(name) = path.strip_prefix("docs/decisions/") else { continue };
        if name == "README.md" {
            continue;
        }
        let number = name.split_once('-').map_or("", |(number, _)| number);
        if number.len() != 4 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            found.push(format!("{path}: not named NNNN-title.md"));
        } else if let Some(other) = by_number.insert(number, name) {
            found.push(format!("{path}: {number} is taken by {other}"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let check = |names: &[&str], count: usize| {
            let files: Vec<String> = names.iter().map(|name| format!("docs/decisions/{name}")).collect();
            let files: Vec<(&str, &str)> = files.iter().map(|path| (path.as_str(), "")).collect();
            assert_eq!(super::check(&Tree::of(&files)).unwrap().len(), count, "{names:?}");
        };
        check(&["0001-a.md", "0002-b.md", "README.md"], 0);
        check(&["0001-a.md", "0001-b.md"], 1);
        check(&["1-a.md"], 1);
    }
}
