//! `unsafe` stands only in the crates that cross the border to C, and each block says why it is sound.

use anyhow::Result;

use super::tree::{Tree, code};

const MAY: [&str; 3] = ["agent/engine/", "agent/engine-ort/", "agent/engine-process/"];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| !path.starts_with("xtask/src/check/")) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, _) in code(text).filter(|(_, line)| is_unsafe(line)) {
            if !MAY.iter().any(|crate_path| path.starts_with(crate_path)) {
                found.push(format!("{path}:{number}: unsafe outside the engine crates"));
            } else if !explained(&lines, number) {
                found.push(format!("{path}:{number}: unsafe without a SAFETY comment"));
            }
        }
    }
    Ok(found)
}

/// Blocks, functions and impls; an attribute such as `#[unsafe(no_mangle)]` runs nothing.
fn is_unsafe(line: &str) -> bool {
    if line.trim_start().starts_with("#[unsafe(") {
        return false;
    }
    let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.into_iter().any(|word| word == "unsafe")
}

/// A comment with SAFETY (or `# Safety`, for an unsafe function) in the block of comments above, or on the line itself.
fn explained(lines: &[&str], number: usize) -> bool {
    let says = |line: &str| line.contains("SAFETY") || line.contains("# Safety");
    let above = lines[..number - 1].iter().rev();
    let above = above.take_while(|line| {
        let line = line.trim();
        line.starts_with("//") || line.starts_with("#[") || line.ends_with('=') || line.ends_with('(')
    });
    says(lines[number - 1]) || above.into_iter().any(|line| says(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_and_why() {
        let check = |path: &str, text: &str, count: usize| {
            assert_eq!(super::check(&Tree::of(&[(path, text)])).unwrap().len(), count, "{path}: {text}");
        };
        check("agent/serve/src/a.rs", "// SAFETY: no\nunsafe { x() }", 1);
        check("agent/engine/src/a.rs", "// SAFETY: x is pure\nunsafe { x() }", 0);
        check("agent/engine/src/a.rs", "// SAFETY: x is pure\nlet y =\n    unsafe { x() };", 0);
        check("agent/engine/src/a.rs", "let y = 1;\nunsafe { x() }", 1);
        check("agent/engine/src/a.rs", "#![allow(unsafe_code)] // the word is part of another", 0);
    }
}
