//! Nothing in the tree names a package registry's host (clients find theirs) or a path of one machine.

use anyhow::Result;

use super::Tree;

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut folders = vec!["/root/".to_owned()];
    if let Some(parent) = tree.root.parent().filter(|parent| parent.components().count() > 1) {
        folders.push(format!("{}/", parent.display()));
    }
    let mut found = Vec::new();
    for (path, text) in
        tree.files.iter().filter(|(path, _)| !path.ends_with("Cargo.lock") && *path != file!())
    {
        for (index, line) in text.lines().enumerate() {
            let host = hosts(line).find(|host| is_registry(host));
            let folder = folders.iter().find(|folder| names_path(line, folder));
            if let Some(what) = host.or(folder.map(String::as_str)) {
                found.push(format!("{path}:{}: {what}", index + 1));
            }
        }
    }
    Ok(found)
}

fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.split("://")
        .skip(1)
        .map(|rest| rest.split(['/', ':', '"', '\'', ')', '>', ' ', '`']).next().unwrap_or(""))
}

fn is_registry(host: &str) -> bool {
    ["crates", "pypi", "pythonhosted", "npmjs", "debian"].iter().any(|name| host.contains(name))
}

/// `folder` with nothing before it that would make it part of a longer path.
fn names_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || ".-_/}>".contains(before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ties_to_one_place() {
        let check = |text: &str, count: usize| {
            assert_eq!(super::check(&Tree::of(&[("README.md", text)])).unwrap().len(), count, "{text}");
        };
        check("https://pypi.org/simple/x", 1);
        check("see https://docs.rs/x and cargo info x", 0);
        check("cd /root/mast", 1);
        check("GET /metrics/root/ and ./root/x", 0);
    }
}
