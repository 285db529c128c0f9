//! What the process holds in memory, as the kernel counts it.

/// Resident set of this process in bytes (proc(5), `statm`); `None` where /proc is not mounted.
pub(crate) fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(u64::try_from(rustix::param::page_size()).ok()?))
}
