use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Outcome, Subject};
use crate::cli::table;

/// Below this the agent's index cannot work and a start is likely to fail.
const SPACE_FLOOR_BYTES: u64 = 64 << 20;
const INODE_FLOOR: u64 = 1_000;

/// The data directory can be written, has room for the outbox, and is used by one agent at most.
pub(super) fn check(subject: &Subject) -> Outcome {
    let dir = &subject.data_dir;
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let writable = match tried(existing) {
        Ok(()) if existing == dir => Outcome::ok(format!("{} is writable", dir.display())),
        Ok(()) => Outcome::ok(format!("{} will be made at the first start", dir.display())),
        Err(error) => {
            return Outcome::failed(
                format!("cannot write to {}: {error}", existing.display()),
                "give it to the user of the service (systemd: StateDirectory=mast does), mount it writable, or run \
                 the doctor as that user: sudo -u mast mast doctor",
            );
        }
    };
    let quota = subject
        .config
        .as_ref()
        .ok()
        .and_then(|config| config.hub.is_some().then_some(config.outbox.quota_bytes));
    let mut findings = vec![writable];
    findings.extend(room(existing, quota));
    findings.extend(lock(dir, subject.agent.is_ok()));
    if quota.is_some() && dir.join("outbox").is_dir() {
        findings.push(reserve(&dir.join("outbox/reserve")));
    }
    Outcome::worst(findings)
}

/// Makes a file and removes it again: the only proof that holds for every file system and user.
fn tried(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!(".doctor-{}", std::process::id()));
    drop(File::create_new(&probe)?);
    std::fs::remove_file(&probe)
}

fn room(dir: &Path, quota_bytes: Option<u64>) -> Option<Outcome> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    // Some file systems have no inodes to count (btrfs says 0 of 0).
    let free_inodes = (stat.f_files > 0).then_some(stat.f_favail);
    Some(judge_room(free_bytes, free_inodes, quota_bytes.unwrap_or(0)))
}

fn judge_room(free_bytes: u64, free_inodes: Option<u64>, quota_bytes: u64) -> Outcome {
    let text = format!("{} free", table::bytes(free_bytes));
    let cure = "free some space, or move data_dir to a larger disk";
    if let Some(inodes) = free_inodes.filter(|inodes| *inodes < INODE_FLOOR) {
        return Outcome::failed(
            format!("{text}, but only {inodes} inodes"),
            "remove small files nobody needs",
        );
    }
    if free_bytes < SPACE_FLOOR_BYTES {
        return Outcome::failed(text, cure);
    }
    if free_bytes < SPACE_FLOOR_BYTES.saturating_add(quota_bytes.saturating_mul(2)) {
        let quota = table::bytes(quota_bytes);
        return Outcome::warning(
            format!("{text}, little for an outbox of up to {quota}"),
            format!("{cure}, or lower outbox.quota_bytes"),
        );
    }
    Outcome::ok(text)
}

/// Whether an agent holds the lock. It is looked up, never taken: a starting agent must not find it held.
fn lock(dir: &Path, agent_answers: bool) -> Option<Outcome> {
    let file = std::fs::metadata(dir.join("lock")).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    match (holder(&locks, &file), agent_answers) {
        (Some(_), true) => Some(Outcome::ok("locked by the running agent")),
        (Some(pid), false) => Some(Outcome::warning(
            format!("locked by process {pid}, which does not answer"),
            "wait if it is starting; else look at its log (journalctl -u mast), then stop it",
        )),
        (None, _) => None,
    }
}

/// The process that holds an flock on the file, by `/proc/locks` (proc_locks(5)).
fn holder(locks: &str, file: &Metadata) -> Option<u32> {
    let device = file.dev();
    let place = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), file.ino());
    // "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; a lock that is waited for has "->" in second place.
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [_, "FLOCK", _, "WRITE", pid, at, ..] if *at == place => pid.parse().ok(),
            _ => None,
        }
    })
}

/// The file that is given up when the disk is full.
fn reserve(path: &Path) -> Outcome {
    if path.exists() {
        return Outcome::ok("the outbox's reserve is there");
    }
    Outcome::warning(
        "the outbox's reserve is gone: the disk was full once",
        "free some space and restart the agent, which makes it anew",
    )
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn room_has_two_thresholds() {
        let check = |free_mib: u64, inodes: Option<u64>, word: &str| {
            let outcome = judge_room(free_mib << 20, inodes, 256 << 20);
            assert_eq!(outcome.word(), word, "{free_mib} MiB, {inodes:?} inodes: {outcome:?}");
        };
        check(10_000, Some(1_000_000), "ok");
        check(10_000, None, "ok");
        check(10_000, Some(3), "failed");
        check(500, Some(1_000_000), "warning");
        check(63, Some(1_000_000), "failed");
    }

    #[test]
    fn a_lock_is_seen_without_being_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("lock")).unwrap();
        assert_eq!(lock(dir.path(), false), None);
        flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        let check = |answers: bool, word: &str, part: &str| {
            let outcome = lock(dir.path(), answers).unwrap();
            assert_eq!(outcome.word(), word);
            assert!(outcome.text().contains(part), "{outcome:?}");
        };
        check(true, "ok", "running agent");
        check(false, "warning", &format!("process {}", std::process::id()));
    }

    #[test]
    fn a_directory_that_is_none_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tried(dir.path()).is_ok());
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "the probe is still there");
        assert!(tried(&dir.path().join("missing")).is_err());
        assert!(tried(Path::new("/proc")).is_err());
    }
}
