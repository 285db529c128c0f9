//! What the engines of one version need for a batch, as measured, and what follows for a request that comes now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// By the binary logarithm of a batch's rows.
const SIZES: usize = 16;

/// How long a measurement is believed when nothing runs that could renew it. A model that once took ten seconds
/// must not be refused for ever to who has one.
const FRESH: Duration = Duration::from_secs(1);

/// Moving averages of what batches cost, and when what runs will be done. Written by the engine threads, read with
/// every request that has a deadline.
#[derive(Debug)]
pub(super) struct Pace {
    zero: Instant,
    /// ns of a batch; 0 before the first.
    costs: [AtomicU64; SIZES],
    /// When the last batch was measured, in ns since `zero`; 0 before the first.
    measured: AtomicU64,
    /// When each instance is expected to be free, in ns since `zero`; 0 for one that is.
    until: Box<[AtomicU64]>,
}

impl Pace {
    pub(super) fn new(instances: usize, now: Instant) -> Self {
        Self {
            zero: now,
            costs: Default::default(),
            measured: AtomicU64::new(0),
            until: (0..instances.max(1)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn instances(&self) -> usize {
        self.until.len()
    }

    pub(super) fn began(&self, instance: usize, rows: usize, now: Instant) {
        if let Some(until) = self.until.get(instance) {
            let expected = self.since(now).saturating_add(nanos(self.cost(rows)));
            until.store(expected.max(1), Ordering::Relaxed);
        }
    }

    /// The batch came to nothing that could be learned from.
    pub(super) fn broke(&self, instance: usize) {
        if let Some(until) = self.until.get(instance) {
            until.store(0, Ordering::Relaxed);
        }
    }

    /// Learns what a batch cost.
    pub(super) fn ended(&self, instance: usize, rows: usize, cost: Duration, now: Instant) {
        self.broke(instance);
        let Some(average) = self.costs.get(size(rows)) else { return };
        let sample = nanos(cost).max(1);
        let old = if self.is_fresh(now) { average.load(Ordering::Relaxed) } else { 0 };
        let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
        average.store(new.max(1), Ordering::Relaxed);
        self.measured.store(self.since(now).max(1), Ordering::Relaxed);
    }

    /// What a batch of `rows` costs, at least: where none was measured, the next smaller one, or its part of a
    /// larger one.
    pub(super) fn cost(&self, rows: usize) -> Duration {
        let size = size(rows);
        let known = |index: usize| {
            self.costs.get(index).map(|cost| cost.load(Ordering::Relaxed)).filter(|cost| *cost > 0)
        };
        if let Some(cost) = (0..=size).rev().find_map(known) {
            return Duration::from_nanos(cost);
        }
        let larger = (size + 1..SIZES).find_map(|index| Some(known(index)? >> (index - size)));
        Duration::from_nanos(larger.unwrap_or(0))
    }

    /// How long until an instance takes up the batch that `batches` others of `rows` are before.
    pub(super) fn wait(&self, batches: usize, rows: usize, now: Instant) -> Duration {
        let now = self.since(now);
        let left = |until: &AtomicU64| until.load(Ordering::Relaxed).saturating_sub(now);
        let rounds = u64::try_from(batches / self.until.len()).unwrap_or(u64::MAX);
        let queued = nanos(self.cost(rows)).saturating_mul(rounds);
        let running = match &*self.until {
            [one] => left(one),
            many => {
                let mut left: Vec<_> = many.iter().map(left).collect();
                left.sort_unstable();
                left.get(batches % many.len()).copied().unwrap_or(0)
            }
        };
        Duration::from_nanos(queued.saturating_add(running))
    }

    /// Whether nothing runs and the last measurement is old: the next request is let in to measure again.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.until.iter().all(|until| until.load(Ordering::Relaxed) == 0) && !self.is_fresh(now)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let measured = self.measured.load(Ordering::Relaxed);
        measured > 0 && self.since(now).saturating_sub(measured) < nanos(FRESH)
    }

    fn since(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.zero))
    }
}

fn size(rows: usize) -> usize {
    usize::try_from(rows.max(1).ilog2()).unwrap_or(0).min(SIZES - 1)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn costs_are_those_of_the_nearest_size() {
        let now = Instant::now();
        let pace = Pace::new(1, now);
        assert_eq!(pace.cost(8), Duration::ZERO);
        pace.ended(0, 8, ms(16), now);
        let check = |rows, expected| assert_eq!(pace.cost(rows), ms(expected), "{rows} rows");
        check(8, 16);
        check(100, 16);
        check(1, 2);
        pace.ended(0, 1, ms(4), now);
        check(1, 4);
        check(4, 4);
        check(9, 16);
    }

    #[test]
    fn one_slow_run_is_forgotten() {
        let zero = Instant::now();
        let pace = Pace::new(1, zero);
        pace.ended(0, 1, ms(10_000), zero);
        assert!(!pace.is_stale(zero + ms(999)));
        assert!(pace.is_stale(zero + ms(1001)));
        pace.began(0, 1, zero + ms(1001));
        assert!(!pace.is_stale(zero + ms(1500)), "it is being measured");
        pace.ended(0, 1, ms(10), zero + ms(1500));
        assert_eq!(pace.cost(1), ms(10));
    }

    #[test]
    fn a_wait_is_what_runs_and_what_is_before() {
        let zero = Instant::now();
        let check = |instances, running: &[u64], batches, expected| {
            let pace = Pace::new(instances, zero);
            pace.ended(0, 1, ms(10), zero);
            for (instance, at) in running.iter().enumerate() {
                pace.began(instance, 1, zero + ms(*at));
            }
            assert_eq!(pace.wait(batches, 1, zero + ms(8)), ms(expected), "{running:?} {batches}");
        };
        check(1, &[], 0, 0);
        check(1, &[0], 0, 2);
        check(1, &[0], 3, 32);
        // A second instance is free at once.
        check(2, &[0], 0, 0);
        check(2, &[0], 1, 2);
        check(2, &[0, 4], 0, 2);
        check(2, &[0, 4], 1, 6);
        check(2, &[0, 4], 2, 12);
        check(3, &[0, 0, 4], 4, 12);
    }
}
