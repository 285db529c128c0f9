//! Invariant 6: every channel is bounded. clippy.toml forbids the calls; this also sees the types and other crates' ways.

use anyhow::Result;

use super::tree::{Tree, find};

const UNBOUNDED: [&str; 4] = ["unbounded", "Unbounded", "mpsc::channel()", "mpsc::channel::<"];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    // tokio's `mpsc::channel::<T>(capacity)` is bounded; std's takes no argument.
    let found = find(tree.product(), &UNBOUNDED);
    Ok(found.into_iter().filter(|line| !line.ends_with("mpsc::channel::<")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_has_no_end() {
        let check = |text: &str, count: usize| {
            let tree = Tree::of(&[("agent/serve/src/a.rs", text)]);
            assert_eq!(super::check(&tree).unwrap().len(), count, "{text}");
        };
        check("let (a, b) = tokio::sync::mpsc::unbounded_channel();", 1);
        check("fn f(sender: UnboundedSender<u8>) {}", 1);
        check("let (a, b) = std::sync::mpsc::channel();", 1);
        check("let (a, b) = mpsc::channel(8); // not unbounded", 0);
        check("#[cfg(test)]\nmod tests { fn f() { unbounded_channel() } }", 0);
    }
}
