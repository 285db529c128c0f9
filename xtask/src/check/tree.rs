use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The text files of the work tree that git knows or would add, by path from the root.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    pub(crate) files: BTreeMap<String, String>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let list = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("cannot run git")?;
        if !list.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&list.stderr).trim());
        }
        let mut files = BTreeMap::new();
        for name in String::from_utf8_lossy(&list.stdout).split_terminator('\0') {
            // What is no UTF-8 is no text; what git knows and is gone is being deleted.
            if let Ok(text) = std::fs::read_to_string(root.join(name)) {
                files.insert(name.to_owned(), text);
            }
        }
        Ok(Self { root: root.to_owned(), files })
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self { root: PathBuf::new(), files }
    }

    /// Rust files of the shipped programs, without their tests.
    pub(crate) fn product(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rust().filter(|(path, _)| {
            (path.starts_with("agent/") || path.starts_with("firmware-tools/")) && !is_test(path)
        })
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Manifests of the members, parsed.
    pub(crate) fn manifests(&self) -> Result<Vec<(&str, toml::Table)>> {
        let of_members = self.files.iter().filter(|(path, _)| path.ends_with("/Cargo.toml"));
        let parsed = of_members.map(|(path, text)| {
            let table: toml::Table = text.parse().with_context(|| format!("{path} is not TOML"))?;
            Ok((path.as_str(), table))
        });
        // A package with a workspace of its own is no member: the generator, the fuzzers.
        parsed.filter(|one| !matches!(one, Ok((_, table)) if table.contains_key("workspace"))).collect()
    }
}

/// Tests, benches and examples, by where they lie.
pub(crate) fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || ["/tests/", "/tests.rs", "/benches/", "/examples/", "_tests.rs"]
            .iter()
            .any(|part| path.contains(part))
}

/// The lines of code with their numbers: without comments, and up to the tests at the end of the file.
pub(crate) fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(index, line)| (index + 1, line.split_once("//").map_or(line, |(code, _)| code)))
}

/// Where product code has one of `needles`, as `path:line: needle`.
pub(crate) fn find<'a>(files: impl Iterator<Item = (&'a str, &'a str)>, needles: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in code(text) {
            for needle in needles.iter().filter(|needle| line.contains(**needle)) {
                found.push(format!("{path}:{number}: {needle}"));
            }
        }
    }
    found
}
