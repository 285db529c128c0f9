//! What systemd is told (sd_notify(3)): ready, stopping, and that the agent is alive.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells systemd; not being under systemd is fine, and a failure is worth one line.
pub(crate) fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// How often the watchdog wants to hear: half of `WatchdogSec`, as sd_watchdog_enabled(3) recommends.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}
