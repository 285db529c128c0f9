//! The one place where counters become records: per interval, one for each model and one for the agent.
//!
//! A record holds the difference since the last record that was committed. One that could not be committed (a
//! full disk) is not lost: its counts are part of the next. Only requests whose residency decision lets an
//! aggregate out are in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use egress::{
    Agent, ClockState, Counters, FailReason, Gap, GapReason, Histogram, Ident, Interval, Record, RejectReason,
};
use serve::{Counts, ModelStats, Serve};

use super::memory::resident_bytes;
use super::observe::egress_provider;
use super::outbox::{CommitError, Outbox};

const _: () = assert!(serve::COMPUTE_BOUNDS_US.len() == Histogram::BOUNDS_US.len());

type Key = (String, u64);

#[derive(Debug)]
pub(crate) struct Recorder {
    serve: Arc<Serve>,
    outbox: Arc<Outbox>,
    started: Instant,
    /// End of the last committed interval of each model, and its counters then.
    committed: HashMap<Key, (Mark, Counts)>,
    last_agent: Mark,
    /// Losses the hub was told of.
    announced: HashSet<(u64, u64)>,
}

/// A moment on both clocks: the monotonic one for durations, the wall clock for people.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    unix_ms: u64,
}

impl Mark {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: Instant::now(), unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }

    fn elapsed_ms(&self, end: &Self) -> u64 {
        millis(end.at.duration_since(self.at))
    }
}

impl Recorder {
    pub(crate) fn new(serve: Arc<Serve>, outbox: Arc<Outbox>, started: Instant) -> Self {
        Self {
            serve,
            outbox,
            started,
            committed: HashMap::new(),
            last_agent: Mark::now(),
            announced: HashSet::new(),
        }
    }

    /// Closes the interval: commits one record for each model and one for the agent. Blocking; answers after
    /// the last is on stable storage.
    ///
    /// # Errors
    /// The first failure. What was not committed is in the next call's records.
    pub(crate) fn close_interval(&mut self) -> Result<(), CommitError> {
        let end = Mark::now();
        let mut done = self.announce_losses();
        for stats in self.serve.stats() {
            if let Err(error) = self.commit_model(&stats, end) {
                done = done.and(Err(error));
            }
        }
        self.commit_agent(end).and(done)
    }

    /// Tells the hub which numbers a damaged disk has lost, so that it does not wait for them. After a restart a
    /// loss may be told twice, which does no harm.
    fn announce_losses(&mut self) -> Result<(), CommitError> {
        for journal::Gap { first, last } in self.outbox.status().gaps {
            if self.announced.contains(&(first, last)) {
                continue;
            }
            let gap = Gap { first_seq: first, last_seq: last, reason: GapReason::Damaged };
            self.outbox.commit(&Record::from(gap))?;
            self.announced.insert((first, last));
        }
        Ok(())
    }

    fn commit_model(&mut self, stats: &ModelStats, end: Mark) -> Result<(), CommitError> {
        let key = (stats.model.clone(), stats.version);
        let nothing = (self.last_agent, Counts::default());
        let (start, before) = self.committed.get(&key).unwrap_or(&nothing);
        let interval = Interval {
            model: Ident::derive(&stats.model),
            version: Ident::derive(&stats.version.to_string()),
            provider: egress_provider(stats.provider),
            start_unix_ms: start.unix_ms,
            end_unix_ms: end.unix_ms,
            clock: clock_state(),
            duration_ms: start.elapsed_ms(&end),
            counters: difference(&stats.exportable, before),
        };
        self.outbox.commit(&Record::from(interval))?;
        self.committed.insert(key, (end, stats.exportable.clone()));
        Ok(())
    }

    fn commit_agent(&mut self, end: Mark) -> Result<(), CommitError> {
        let outbox = self.outbox.status();
        let ready = self.serve.index().iter().filter(|entry| entry.state.is_serving()).count();
        let agent = Agent {
            start_unix_ms: self.last_agent.unix_ms,
            end_unix_ms: end.unix_ms,
            clock: clock_state(),
            duration_ms: self.last_agent.elapsed_ms(&end),
            uptime_ms: millis(end.at.duration_since(self.started)),
            resident_bytes: resident_bytes(),
            outbox_records: outbox.pending_records,
            outbox_bytes: outbox.disk_bytes,
            outbox_limit_bytes: outbox.quota_bytes,
            models_ready: u64::try_from(ready).unwrap_or(u64::MAX),
        };
        self.outbox.commit(&Record::from(agent))?;
        self.last_agent = end;
        Ok(())
    }
}

/// What was counted since `before`.
fn difference(now: &Counts, before: &Counts) -> Counters {
    let mut compute = Histogram::default();
    let buckets = now.compute_histogram.iter().zip(&before.compute_histogram);
    for (bucket, (now, before)) in compute.counts.iter_mut().zip(buckets) {
        *bucket = now.saturating_sub(*before);
    }
    let micros = |now: serve::Counted, before: serve::Counted| now.ns.saturating_sub(before.ns) / 1_000;
    let mut counters = Counters {
        requests: now.success.count.saturating_sub(before.success.count),
        inferences: now.inference_count.saturating_sub(before.inference_count),
        batches: now.execution_count.saturating_sub(before.execution_count),
        queue_us: micros(now.queue, before.queue),
        batch_us: micros(now.compute_input, before.compute_input),
        compute_us: micros(now.compute_infer, before.compute_infer),
        compute,
        ..Counters::default()
    };
    let (failed, failed_before) = (&now.accepted_unserved, &before.accepted_unserved);
    for (reason, now, before) in [
        (FailReason::Engine, failed.engine, failed_before.engine),
        (FailReason::Deadline, failed.deadline, failed_before.deadline),
        (FailReason::Cancelled, failed.canceled, failed_before.canceled),
        (FailReason::Stopped, failed.unavailable, failed_before.unavailable),
        (FailReason::Input, failed.input, failed_before.input),
    ] {
        if now > before {
            counters.failed.insert(reason, now - before);
        }
    }
    let (away, away_before) = (&now.turned_away, &before.turned_away);
    for (reason, now, before) in [
        (RejectReason::Busy, away.unavailable, away_before.unavailable),
        (RejectReason::Deadline, away.deadline, away_before.deadline),
        (RejectReason::Input, away.input, away_before.input),
        (RejectReason::Internal, away.engine + away.canceled, away_before.engine + away_before.canceled),
    ] {
        if now > before {
            counters.rejected.insert(reason, now - before);
        }
    }
    counters
}

/// systemd-timesyncd leaves this file once the clock is synchronised (systemd-timesyncd.service(8)). Another
/// time service may run without it, so its absence says nothing.
fn clock_state() -> ClockState {
    if std::path::Path::new("/run/systemd/timesync/synchronized").exists() {
        ClockState::Synchronised
    } else {
        ClockState::Unknown
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buckets_of_the_path_are_those_of_the_record() {
        assert_eq!(serve::COMPUTE_BOUNDS_US, Histogram::BOUNDS_US);
    }

    #[test]
    fn a_record_holds_the_difference() {
        let mut before = Counts::default();
        before.success.count = 10;
        before.compute_infer.ns = 5_000_000;
        let mut now = before.clone();
        now.success.count = 13;
        now.compute_infer.ns = 9_500_000;
        now.accepted_unserved.canceled = 2;
        now.turned_away.unavailable = 4;
        now.compute_histogram[1] = 3;
        let counters = difference(&now, &before);
        assert_eq!((counters.requests, counters.compute_us), (3, 4_500));
        assert_eq!(counters.compute.total(), 3);
        assert_eq!(counters.failed.into_iter().collect::<Vec<_>>(), [(FailReason::Cancelled, 2)]);
        assert_eq!(counters.rejected.into_iter().collect::<Vec<_>>(), [(RejectReason::Busy, 4)]);
    }
}
