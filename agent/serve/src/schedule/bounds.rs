//! How a queue is bounded, ordered and timed: Triton's `ModelDynamicBatching` and `ModelQueuePolicy`
//! (model_config.proto), as plain values.

use std::time::{Duration, Instant};

pub(crate) use crate::{QueuePolicy, TimeoutAction};

/// How one version's requests are queued and how its batches are formed.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Requests that may wait, over all levels.
    pub(crate) limit: usize,
    /// Rows of a batch; 0 is one request at a time, whatever its rows.
    pub(crate) max_rows: usize,
    /// How long the oldest request of a batch may wait for more.
    pub(crate) delay: Duration,
    /// Rows that a batch should have, ascending; a batch of one of them does not wait for more.
    pub(crate) preferred: Vec<usize>,
    /// Replies leave in the order in which the requests were taken, whichever instance is done first.
    pub(crate) preserve_ordering: bool,
    /// Level 1, the highest, first. Never empty: without priorities there is one level.
    pub(crate) levels: Vec<QueuePolicy>,
    /// Of requests that name no level, or one that is not there (as in Triton). Counted from 1.
    pub(crate) default_level: u32,
    /// For models that keep state between the requests of a sequence. Others ignore a request's sequence id, as
    /// in Triton.
    pub(crate) sequencing: Option<Sequencing>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            limit: 128,
            max_rows: 0,
            delay: Duration::ZERO,
            preferred: Vec::new(),
            preserve_ordering: false,
            levels: vec![QueuePolicy::default()],
            default_level: 1,
            sequencing: None,
        }
    }
}

/// How many sequences a model keeps, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sequencing {
    /// A sequence that is not continued for so long ends.
    pub(crate) max_idle: Duration,
    /// More at a time are refused.
    pub(crate) max_sequences: usize,
}

/// What a request's priority and timeout come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// An index of [`Bounds::levels`].
    pub(crate) level: usize,
    /// When it is of no use any more.
    pub(crate) deadline: Option<Instant>,
    /// When it goes behind the others of its level.
    pub(crate) patience: Option<Instant>,
}

impl Bounds {
    pub(crate) fn terms(&self, priority: u64, timeout: Option<Duration>, arrived: Instant) -> Terms {
        let default = usize::try_from(self.default_level).unwrap_or(1);
        let asked = usize::try_from(priority).unwrap_or(0);
        let level = if asked == 0 || asked > self.levels.len() { default } else { asked };
        let level = level.clamp(1, self.levels.len().max(1)) - 1;
        let policy = self.levels.get(level).copied().unwrap_or_default();
        let own = timeout.filter(|_| policy.allow_timeout_override);
        let default = Some(Duration::from_micros(policy.default_timeout_us)).filter(|it| !it.is_zero());
        let timeout = match (own, default) {
            (Some(own), Some(default)) => Some(own.min(default)),
            (own, default) => own.or(default),
        };
        let end = timeout.and_then(|timeout| arrived.checked_add(timeout));
        match policy.timeout_action {
            TimeoutAction::Reject => Terms { level, deadline: end, patience: None },
            TimeoutAction::Delay => Terms { level, deadline: None, patience: end },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_tritons() {
        let now = Instant::now();
        let us = |us: Option<u64>| us.map(Duration::from_micros);
        let policy = |default_timeout_us, allow_timeout_override, timeout_action| QueuePolicy {
            max_queue_size: None,
            default_timeout_us,
            allow_timeout_override,
            timeout_action,
        };
        let bounds = Bounds {
            levels: vec![
                policy(0, true, TimeoutAction::Reject),
                policy(100, false, TimeoutAction::Reject),
                policy(100, true, TimeoutAction::Reject),
                policy(100, true, TimeoutAction::Delay),
            ],
            default_level: 2,
            ..Bounds::default()
        };
        let check = |priority, timeout, level, deadline, patience| {
            let at = |us: Option<u64>| us.map(|us| now + Duration::from_micros(us));
            let expected = Terms { level, deadline: at(deadline), patience: at(patience) };
            assert_eq!(bounds.terms(priority, us(timeout), now), expected, "{priority} {timeout:?}");
        };
        // No default: the client's own.
        check(1, None, 0, None, None);
        check(1, Some(7), 0, Some(7), None);
        // No override, and the default level for what there is not.
        check(2, Some(7), 1, Some(100), None);
        check(0, Some(7), 1, Some(100), None);
        check(5, None, 1, Some(100), None);
        check(u64::MAX, None, 1, Some(100), None);
        // A shorter one only.
        check(3, Some(7), 2, Some(7), None);
        check(3, Some(700), 2, Some(100), None);
        check(4, Some(7), 3, None, Some(7));
        check(4, None, 3, None, Some(100));
    }
}
