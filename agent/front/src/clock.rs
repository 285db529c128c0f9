//! The time, where the clock may be wrong: a box without a battery starts at 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// 2026-11-01: no clock that is right shows a time before this program was written.
pub(crate) const EARLIEST_UNIX_S: u64 = 1_793_491_200;

/// What the clock shows, in s since 1970; a clock before that shows 0.
pub(crate) fn now_unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Whether something that ends at `end_unix_s` has ended for certain: by a clock that may be right, or before
/// any time that may be true.
pub(crate) fn has_ended(end_unix_s: u64, now_unix_s: u64) -> bool {
    end_unix_s <= now_unix_s.max(EARLIEST_UNIX_S)
}
