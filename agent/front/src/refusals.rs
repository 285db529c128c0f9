//! How long those wait who are told that their request does not fit: from the arrival of its last byte to the error's making.
//! Only what the model's queue refuses is counted; a request without room for its body is refused before it is read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::Page;

/// Upper bounds of the buckets, in microseconds; one more takes the rest.
const BOUNDS_US: [u64; 9] = [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000];

/// A histogram that every request may add to.
#[derive(Debug, Default)]
pub(crate) struct RefusalTimes {
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl RefusalTimes {
    pub(crate) fn count(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < took_us);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    pub(crate) fn write(&self, page: &mut Page) {
        let name = "mast_refusal_duration_us";
        page.family(name, "histogram", "From the last byte of a request to its refusal by the queue");
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        page.histogram(name, &[], &BOUNDS_US, counts, self.sum_us.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let check = |took_us: u64, le: &str| {
            let times = RefusalTimes::default();
            times.count(Duration::from_micros(took_us));
            let mut page = Page::default();
            times.write(&mut page);
            let text = page.into_text();
            let first = text.lines().find(|line| line.contains("_bucket") && line.ends_with(" 1")).unwrap();
            assert!(first.contains(&format!("le=\"{le}\"")), "{took_us}: {first}");
            assert!(text.ends_with(&format!("_sum {took_us}\nmast_refusal_duration_us_count 1\n")), "{text}");
        };
        check(0, "50");
        check(50, "50");
        check(51, "100");
        check(5_000, "5000");
        check(5_001, "10000");
        check(50_001, "+Inf");
    }
}
