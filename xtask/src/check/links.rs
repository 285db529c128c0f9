//! Relative links in Markdown lead to a file or folder of the tree.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use super::Tree;

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (path, text) in tree.files.iter().filter(|(path, _)| path.ends_with(".md")) {
        for (index, line) in text.lines().enumerate() {
            for target in targets(line) {
                if !leads_somewhere(tree, path, target) {
                    found.push(format!("{path}:{}: {target}", index + 1));
                }
            }
        }
    }
    Ok(found)
}

/// What stands in the round brackets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

fn leads_somewhere(tree: &Tree, from: &str, target: &str) -> bool {
    let target = target.split_once('#').map_or(target, |(path, _)| path);
    if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let Some(path) = resolve(Path::new(from).parent().unwrap_or(Path::new("")), target) else { return false };
    let path = path.to_string_lossy();
    let folder = format!("{path}/");
    path.is_empty() || tree.files.keys().any(|file| *file == path || file.starts_with(&folder))
}

/// `None` if it leads out of the tree.
fn resolve(folder: &Path, target: &str) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => path.pop().then_some(())?,
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links() {
        let check = |text: &str, count: usize| {
            let tree = Tree::of(&[("docs/a.md", text), ("docs/specs/b.md", ""), ("README.md", "")]);
            assert_eq!(super::check(&tree).unwrap().len(), count, "{text}");
        };
        check("[b](specs/b.md) [top](../README.md#x) [web](https://example.org) [here](#y) [dir](specs)", 0);
        check("[gone](specs/c.md) and [b](specs/b.md)", 1);
        check("[out](../../x.md)", 1);
        check("[root](/etc/passwd)", 1);
    }
}
