//! Invariant 8: no Rust file over 500 lines, tests and generated code apart. What good code in this field has is 90 to 240.

use anyhow::Result;

use super::tree::{Tree, is_test};

const LIMIT_LINES: usize = 500;

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let long = measured(tree).into_iter().filter(|(_, lines)| *lines > LIMIT_LINES);
    Ok(long.map(|(path, lines)| format!("{path}: {lines} lines")).collect())
}

pub(super) fn median(tree: &Tree) -> usize {
    let mut lines: Vec<usize> = measured(tree).into_iter().map(|(_, lines)| lines).collect();
    lines.sort_unstable();
    lines.get(lines.len() / 2).copied().unwrap_or(0)
}

fn measured(tree: &Tree) -> Vec<(&str, usize)> {
    tree.rust()
        .filter(|(path, _)| !is_test(path) && !path.contains("/generated/"))
        .map(|(path, text)| (path, text.lines().count()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_too_many() {
        let (fits, long) = ("\n".repeat(500), "\n".repeat(501));
        let tree = Tree::of(&[
            ("agent/a/src/fits.rs", &fits),
            ("agent/a/src/long.rs", &long),
            ("tests/it/long.rs", &long),
            ("agent/a/src/generated/long.rs", &long),
        ]);
        assert_eq!(super::check(&tree).unwrap(), ["agent/a/src/long.rs: 501 lines"]);
        assert_eq!(median(&tree), 501);
    }
}
