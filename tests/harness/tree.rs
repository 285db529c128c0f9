//! A process and all that it started, as proc(5) shows them: rivals are several processes, and so is an agent with workers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use crate::process::{cpu_of, resident_bytes_of};

/// A process and its descendants at one moment.
#[derive(Debug, Clone)]
pub struct Tree {
    pids: BTreeSet<u32>,
}

impl Tree {
    pub fn of(root: u32) -> Result<Self> {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // It may have ended meanwhile.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let parent =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            if let Some(parent) = parent {
                children.entry(parent).or_default().push(pid);
            }
        }
        let (mut pids, mut next) = (BTreeSet::new(), vec![root]);
        while let Some(pid) = next.pop() {
            if pids.insert(pid) {
                next.extend(children.remove(&pid).unwrap_or_default());
            }
        }
        Ok(Self { pids })
    }

    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.pids.iter().copied()
    }

    /// CPU time so far, of those that still run.
    pub fn cpu(&self) -> Duration {
        self.pids().filter_map(|pid| cpu_of(pid).ok()).sum()
    }

    /// Resident memory in bytes; pages that are shared count for each.
    pub fn resident_bytes(&self) -> u64 {
        self.pids().filter_map(|pid| resident_bytes_of(pid).ok()).sum()
    }

    /// Those whose command line has `word` as an argument of its own.
    pub fn with_argument(&self, word: &str) -> Vec<u32> {
        let has = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).skip(1).any(|one| one == word.as_bytes()))
        };
        self.pids().filter(has).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::wait_until;

    #[test]
    fn a_grandchild_belongs_to_it() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'sleep 30; true' tag; true"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let tree = || Tree::of(shell.id()).unwrap();
        wait_until("two levels", Duration::from_secs(10), || Ok(tree().pids.len() == 3)).unwrap();
        let tree = tree();
        assert_eq!(tree.with_argument("tag").len(), 1);
        assert!(tree.resident_bytes() > 0);
        // The leaf's end is the end of all.
        crate::kill_by_id(i32::try_from(tree.with_argument("30")[0]).unwrap()).unwrap();
        shell.wait().unwrap();
    }
}
