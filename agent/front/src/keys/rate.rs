use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// So many requests a second in the long run, and so many at once: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Of one request.
    interval_ns: u64,
    /// How far requests may run ahead of the rate.
    ahead_ns: u64,
}

impl Rate {
    /// `per_second` is 0.001 to 1 000 000, `burst` at least 1.
    pub(super) fn new(per_second: f64, burst: u32) -> Self {
        let interval = Duration::from_secs_f64(1.0 / per_second);
        Self { interval_ns: ns(interval), ahead_ns: ns(interval.saturating_mul(burst - 1)) }
    }
}

/// When the next request would be due if all so far had kept to the rate.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    /// Since `start`.
    due_ns: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { start: Instant::now(), due_ns: AtomicU64::new(0) }
    }
}

impl Pace {
    /// One request, or how long until there is room for one.
    pub(super) fn spend(&self, rate: &Rate) -> Result<(), Duration> {
        self.spend_at(rate, ns(self.start.elapsed()))
    }

    fn spend_at(&self, rate: &Rate, now_ns: u64) -> Result<(), Duration> {
        let latest_ns = now_ns.saturating_add(rate.ahead_ns);
        let next =
            |due_ns: u64| (due_ns <= latest_ns).then(|| due_ns.max(now_ns).saturating_add(rate.interval_ns));
        match self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(due_ns) => Err(Duration::from_nanos(due_ns - latest_ns)),
        }
    }
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate_and_no_more_saved_than_a_burst() {
        let (pace, rate) = (Pace::default(), Rate::new(10.0, 3));
        let spent = |count: usize| (0..count).filter(|_| pace.spend(&rate).is_ok()).count();
        assert_eq!(spent(5), 3);
        assert_eq!(pace.spend(&rate).unwrap_err(), Duration::from_millis(100));
        tokio::time::advance(Duration::from_millis(99)).await;
        assert_eq!(pace.spend(&rate).unwrap_err(), Duration::from_millis(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(spent(2), 1);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(spent(10), 3);
        // In the long run the rate, whatever the pattern.
        let mut taken = 0;
        for step_ms in (1..=200).cycle().take(2000) {
            tokio::time::advance(Duration::from_millis(step_ms % 7)).await;
            taken += spent(1);
        }
        // 2000 steps of 0 to 6 ms.
        let expected = (1..=200_u64).cycle().take(2000).map(|step| step % 7).sum::<u64>() / 100;
        let taken = u64::try_from(taken).unwrap();
        assert!((expected..=expected + 3).contains(&taken), "{taken}, expected {expected}");
    }

    #[test]
    fn a_slow_rate_says_how_long_to_wait() {
        let (pace, rate) = (Pace::default(), Rate::new(0.001, 1));
        assert_eq!(pace.spend_at(&rate, 5), Ok(()));
        assert_eq!(pace.spend_at(&rate, 5), Err(Duration::from_secs(1000)));
        assert_eq!(pace.spend_at(&rate, 1_000_000_000_005), Ok(()));
    }
}
