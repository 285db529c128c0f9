//! How long to wait before the next connection: full jitter, so that a fleet does not come back all at once.

use std::time::Duration;

use rand::Rng;

/// The wait before attempt n is random between 0 and `min(max, min * 2^n)`.
#[derive(Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempt: 0 }
    }

    /// The next wait, drawn from `random`.
    pub(super) fn next(&mut self, random: &mut impl Rng) -> Duration {
        let bound = self.bound();
        self.attempt = self.attempt.saturating_add(1);
        random.random_range(Duration::ZERO..=bound)
    }

    /// The connection proved good: start over.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }

    fn bound(&self) -> Duration {
        let factor = 1u32.checked_shl(self.attempt).unwrap_or(u32::MAX);
        self.min.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn the_bound_doubles_up_to_its_maximum_and_starts_over() {
        let mut random = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(1_000));
        for bound_ms in [100, 200, 400, 800, 1_000, 1_000] {
            assert_eq!(backoff.bound(), Duration::from_millis(bound_ms));
            assert!(backoff.next(&mut random) <= Duration::from_millis(bound_ms));
        }
        for _ in 0..100 {
            assert!(backoff.next(&mut random) <= Duration::from_millis(1_000));
        }
        backoff.reset();
        assert_eq!(backoff.bound(), Duration::from_millis(100));
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let mut random = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let waits: Vec<_> = (0..200).map(|_| backoff.next(&mut random).as_millis()).collect();
        for tenth in 0..10u128 {
            assert!(waits.iter().any(|wait| wait / 100 == tenth), "{tenth}");
        }
    }
}
