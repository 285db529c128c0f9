//! Which waiting requests run together, and when. Pure: time is an argument.
//!
//! A batch is always a prefix of the queue, so nothing is reordered and nothing starves. It closes when it is
//! full, when the next request cannot join it, or when waiting longer would break the delay or a deadline.

use std::time::{Duration, Instant};

/// What forming needs to know of one queued request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) rows: usize,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Equal to the queue's first in type and in every axis but the first.
    pub(crate) joins: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Rows of a batch; 0 is one request at a time, whatever its rows.
    pub(crate) max_rows: usize,
    /// How long the first request of a batch may wait for more.
    pub(crate) delay: Duration,
    /// How long a batch takes to run, as measured; a deadline is met only if it is left that much.
    pub(crate) compute: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forming {
    /// Run the first n of the queue.
    Take(usize),
    /// Ask again then, or when the queue has changed.
    WaitUntil(Instant),
    Empty,
}

/// Looks only as far into the queue as a batch can reach.
pub(crate) fn form(queue: impl IntoIterator<Item = Waiting>, limits: &Limits, now: Instant) -> Forming {
    let mut queue = queue.into_iter();
    let Some(first) = queue.next() else { return Forming::Empty };
    if limits.max_rows == 0 || first.rows >= limits.max_rows {
        return Forming::Take(1);
    }
    let latest_start = |waiting: &Waiting| {
        let deadline = waiting.deadline?;
        // Half of its time is for waiting at most: a run may take longer than the measured ones, and before the
        // first there is no measure at all.
        let half = deadline.saturating_duration_since(waiting.arrived) / 2;
        Some(deadline.checked_sub(limits.compute.max(half)).unwrap_or(now))
    };
    let mut close = first.arrived + limits.delay;
    if let Some(latest) = latest_start(&first) {
        close = close.min(latest);
    }
    let mut rows = first.rows;
    let mut taken = 1;
    for waiting in queue {
        if !waiting.joins || rows + waiting.rows > limits.max_rows {
            return Forming::Take(taken);
        }
        rows += waiting.rows;
        taken += 1;
        if rows == limits.max_rows {
            return Forming::Take(taken);
        }
        if let Some(latest) = latest_start(&waiting) {
            close = close.min(latest);
        }
    }
    if now >= close { Forming::Take(taken) } else { Forming::WaitUntil(close) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Rows, ms since arrival, ms to the deadline, joins.
    type Case = (usize, u64, Option<u64>, bool);

    fn formed(now: Instant, limits: &Limits, queue: &[Case]) -> Forming {
        let waiting = |&(rows, age, left, joins): &Case| Waiting {
            rows,
            arrived: now.checked_sub(ms(age)).unwrap(),
            deadline: left.map(|left| now + ms(left)),
            joins,
        };
        form(queue.iter().map(waiting), limits, now)
    }

    /// The test's "now" lies an hour after the clock's zero, so that subtraction is always possible.
    fn now() -> Instant {
        Instant::now() + ms(3_600_000)
    }

    #[test]
    fn cases() {
        let now = now();
        let limits = Limits { max_rows: 4, delay: ms(10), compute: ms(2) };
        let check = |queue: &[Case], expected: Forming| {
            assert_eq!(formed(now, &limits, queue), expected, "{queue:?}");
        };
        check(&[], Forming::Empty);
        check(&[(1, 0, None, true)], Forming::WaitUntil(now + ms(10)));
        check(&[(1, 4, None, true), (1, 0, None, true)], Forming::WaitUntil(now + ms(6)));
        check(&[(1, 10, None, true)], Forming::Take(1));
        check(&[(4, 0, None, true)], Forming::Take(1));
        check(&[(2, 0, None, true), (2, 0, None, true), (1, 0, None, true)], Forming::Take(2));
        check(&[(2, 0, None, true), (3, 0, None, true)], Forming::Take(1));
        check(&[(1, 0, None, true), (1, 0, None, false)], Forming::Take(1));
        check(&[(1, 0, Some(3), true)], Forming::WaitUntil(now + ms(1)));
        check(&[(1, 0, Some(8), true)], Forming::WaitUntil(now + ms(4)));
        check(&[(1, 0, None, true), (1, 0, Some(2), true)], Forming::Take(2));
        let alone = Limits { max_rows: 0, ..limits };
        assert_eq!(formed(now, &alone, &[(9, 0, None, true), (1, 0, None, true)]), Forming::Take(1));
    }

    proptest! {
        #[test]
        fn never_over_the_limit_never_late_never_idle(
            queue in proptest::collection::vec(
                (1_usize..5, 0_u64..30, proptest::option::of(0_u64..30), any::<bool>()), 0..12),
            max_rows in 0_usize..9, delay in 0_u64..20, compute in 0_u64..5,
        ) {
            let now = now();
            let limits = Limits { max_rows, delay: ms(delay), compute: ms(compute) };
            match formed(now, &limits, &queue) {
                Forming::Empty => prop_assert!(queue.is_empty()),
                Forming::Take(taken) => {
                    let batch = &queue[..taken];
                    let rows: usize = batch.iter().map(|case| case.0).sum();
                    prop_assert!(taken == 1 || rows <= max_rows, "{rows} rows");
                    prop_assert!(batch[1..].iter().all(|case| case.3), "a stranger in the batch");
                }
                Forming::WaitUntil(until) => {
                    prop_assert!(until > now);
                    prop_assert!(until <= now - ms(queue[0].1) + ms(delay), "past the delay");
                    for (_, _, left, _) in &queue {
                        prop_assert!(left.is_none_or(|left| until + ms(compute) <= now + ms(left)), "late");
                    }
                    let rows: usize = queue.iter().map(|case| case.0).sum();
                    prop_assert!(rows < max_rows && queue[1..].iter().all(|case| case.3), "idle though closed");
                }
            }
        }
    }
}
