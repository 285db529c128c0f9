//! Which waiting requests run together, and when. Pure: time is an argument.
//!
//! A batch is always a prefix of the queue as it stands, level by level, so nothing is reordered within a level. It
//! closes when it is full, when the next request cannot join it, or when waiting longer would break the delay or a
//! deadline. With preferred sizes (Triton, `preferred_batch_size`) it is cut at the largest of them that it reaches,
//! and waits only while it could still reach one.

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
pub(crate) struct Limits<'a> {
    /// Rows of a batch; 0 is one request at a time, whatever its rows.
    pub(crate) max_rows: usize,
    /// Rows that a batch should have, ascending; none is as good as `max_rows`.
    pub(crate) preferred: &'a [usize],
    /// How long the oldest request of a batch may wait for more.
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
pub(crate) fn form(queue: impl IntoIterator<Item = Waiting>, limits: &Limits<'_>, now: Instant) -> Forming {
    let mut queue = queue.into_iter();
    let Some(first) = queue.next() else { return Forming::Empty };
    if limits.max_rows == 0 || first.rows >= limits.max_rows {
        return Forming::Take(1);
    }
    // More than the largest size that is wanted is only taken when there is no time to be choosy.
    let enough = limits.preferred.last().copied().unwrap_or(limits.max_rows);
    let is_preferred = |rows: usize| limits.preferred.binary_search(&rows).is_ok();
    let mut close = latest_start(&first, limits, now);
    let (mut rows, mut taken, mut full) = (first.rows, 1, false);
    let mut best = is_preferred(rows).then_some(taken);
    for waiting in queue {
        if rows + waiting.rows > enough && best.is_none() {
            best = Some(taken);
        }
        if !waiting.joins || rows + waiting.rows > limits.max_rows {
            full = true;
            break;
        }
        rows += waiting.rows;
        taken += 1;
        close = close.min(latest_start(&waiting, limits, now));
        if is_preferred(rows) {
            best = Some(taken);
        }
        if rows == limits.max_rows {
            full = true;
            break;
        }
    }
    if now >= close {
        return Forming::Take(taken);
    }
    match best {
        Some(best) => Forming::Take(best),
        None if full || rows >= enough => Forming::Take(taken),
        None => Forming::WaitUntil(close),
    }
}

/// When a batch with this request must start.
fn latest_start(waiting: &Waiting, limits: &Limits<'_>, now: Instant) -> Instant {
    let delayed = waiting.arrived + limits.delay;
    let Some(deadline) = waiting.deadline else { return delayed };
    // Half of its time is for waiting at most: a run may take longer than the measured ones, and before the
    // first there is no measure at all.
    let half = deadline.saturating_duration_since(waiting.arrived) / 2;
    delayed.min(deadline.checked_sub(limits.compute.max(half)).unwrap_or(now))
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

    fn formed(now: Instant, limits: &Limits<'_>, queue: &[Case]) -> Forming {
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
        let limits = Limits { max_rows: 4, preferred: &[], delay: ms(10), compute: ms(2) };
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
        // A higher level may come first and be younger.
        check(&[(1, 0, None, true), (1, 9, None, true)], Forming::WaitUntil(now + ms(1)));
        let alone = Limits { max_rows: 0, ..limits };
        assert_eq!(formed(now, &alone, &[(9, 0, None, true), (1, 0, None, true)]), Forming::Take(1));
    }

    #[test]
    fn preferred_sizes() {
        let now = now();
        let check = |ages: &[u64], delay, expected: Forming| {
            let limits = Limits { max_rows: 8, preferred: &[2, 4], delay: ms(delay), compute: ms(2) };
            let queue: Vec<_> = ages.iter().map(|age| (1, *age, None, true)).collect();
            assert_eq!(formed(now, &limits, &queue), expected, "{ages:?}, delay {delay}");
        };
        check(&[0], 10, Forming::WaitUntil(now + ms(10)));
        check(&[0, 0], 10, Forming::Take(2));
        check(&[3, 0, 0], 10, Forming::Take(2));
        check(&[0; 5], 10, Forming::Take(4));
        check(&[0; 9], 10, Forming::Take(4));
        // Too late to be choosy.
        check(&[10, 0, 0], 10, Forming::Take(3));
        check(&[0; 9], 0, Forming::Take(8));
        // None can be met any more: what there is.
        let limits = Limits { max_rows: 8, preferred: &[4], delay: ms(10), compute: ms(2) };
        let check = |rows: &[usize], expected| {
            let queue: Vec<_> = rows.iter().map(|rows| (*rows, 0, None, true)).collect();
            assert_eq!(formed(now, &limits, &queue), expected, "{rows:?}");
        };
        check(&[3, 2], Forming::Take(1));
        check(&[5], Forming::Take(1));
        check(&[3], Forming::WaitUntil(now + ms(10)));
        check(&[3, 6], Forming::Take(1));
    }

    proptest! {
        #[test]
        fn never_over_the_limit_never_late_never_idle(
            queue in proptest::collection::vec(
                (1_usize..5, 0_u64..30, proptest::option::of(0_u64..30), any::<bool>()), 0..12),
            max_rows in 0_usize..9, delay in 0_u64..20, compute in 0_u64..5,
            preferred in proptest::collection::btree_set(1_usize..9, 0..3),
        ) {
            let now = now();
            let preferred: Vec<_> = preferred.into_iter().filter(|rows| *rows <= max_rows).collect();
            let limits = Limits { max_rows, preferred: &preferred, delay: ms(delay), compute: ms(compute) };
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
                    for (_, age, left, _) in &queue {
                        prop_assert!(until <= now - ms(*age) + ms(delay), "past the delay");
                        prop_assert!(left.is_none_or(|left| until + ms(compute) <= now + ms(left)), "late");
                    }
                    let rows: usize = queue.iter().map(|case| case.0).sum();
                    let enough = preferred.last().copied().unwrap_or(max_rows);
                    prop_assert!(rows < enough && queue[1..].iter().all(|case| case.3), "idle though closed");
                }
            }
        }
    }
}
