use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tokio::process::Command;
use tokio::time::timeout;

use super::Outcome;

/// 2026-11-01: no clock that is right shows a time before this program was written.
const EARLIEST_UNIX_S: u64 = 1_793_491_200;
const LATEST_UNIX_S: u64 = EARLIEST_UNIX_S + 30 * 366 * 86_400;
/// systemd-timesyncd makes this file when the clock is set (systemd-timesyncd.service(8)).
const TIMESYNC_FLAG: &str = "/run/systemd/timesync/synchronized";

/// The clock is plausible and kept in step. Signed documents and certificates depend on it.
pub(super) async fn check() -> Outcome {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let synchronized = if Path::new(TIMESYNC_FLAG).exists() { Some(true) } else { ask_timedated().await };
    judge(now, synchronized)
}

fn judge(now_unix_s: u64, synchronized: Option<bool>) -> Outcome {
    let cure = "let it be set from the network: timedatectl set-ntp true, or chrony";
    if now_unix_s < EARLIEST_UNIX_S {
        return Outcome::failed("the clock is in the past: before this program was written", cure);
    }
    if now_unix_s > LATEST_UNIX_S {
        return Outcome::failed("the clock is decades ahead", cure);
    }
    match synchronized {
        Some(true) => Outcome::ok("plausible, and synchronised"),
        Some(false) => Outcome::warning("plausible, but not synchronised", cure),
        None => Outcome::ok("plausible; whether it is synchronised cannot be found out here"),
    }
}

/// What the kernel says (adjtimex(2)), by way of timedated, which covers every NTP client.
async fn ask_timedated() -> Option<bool> {
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(2), asked).await.ok()?.ok()?;
    match output.stdout.trim_ascii() {
        b"yes" => Some(true),
        b"no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_plausible_and_in_step() {
        let check = |now, synchronized, word| assert_eq!(judge(now, synchronized).word(), word, "{now}");
        check(0, Some(true), "failed");
        check(EARLIEST_UNIX_S - 1, None, "failed");
        check(EARLIEST_UNIX_S, Some(true), "ok");
        check(EARLIEST_UNIX_S, Some(false), "warning");
        check(EARLIEST_UNIX_S, None, "ok");
        check(u64::MAX, Some(true), "failed");
    }
}
