use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use engine::{Device, Provider};
use wire::{Error, ErrorCode, Ran, Timings};

/// Upper bounds of [`Counts::compute_histogram`], in µs; a last bucket takes what is above.
pub const COMPUTE_BOUNDS_US: [u64; 13] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000];

/// How often, and how long together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub count: u64,
    pub ns: u64,
}

impl Counted {
    fn add(&mut self, duration: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Requests without a result, by Triton's reasons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// For want of room or time: queue full, deadline, unloading.
    pub rejected: u64,
    /// The client went away.
    pub canceled: u64,
    /// The engine failed.
    pub backend: u64,
    /// The request did not fit the model.
    pub other: u64,
}

/// Requests without a result, by the agent's own words: those that had a place in the queue, and those that had
/// none. The sum of both is that of [`Failures`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unserved {
    /// No room, draining, or unloading.
    pub unavailable: u64,
    pub deadline: u64,
    pub canceled: u64,
    pub engine: u64,
    /// The request did not fit the model.
    pub input: u64,
}

impl Unserved {
    fn add(&mut self, reason: Reason) {
        match reason {
            Reason::Unavailable => self.unavailable += 1,
            Reason::Deadline => self.deadline += 1,
            Reason::Canceled => self.canceled += 1,
            Reason::Backend => self.engine += 1,
            Reason::Other => self.input += 1,
        }
    }
}

/// What happened to requests, cumulative since start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// From acceptance to the result.
    pub success: Counted,
    pub fail: Counted,
    pub failures: Failures,
    /// Of those that had a place in the queue.
    pub accepted_unserved: Unserved,
    /// Of those that had none: they sum to `refused`.
    pub turned_away: Unserved,
    pub queue: Counted,
    /// Forming the batch.
    pub compute_input: Counted,
    /// Inside the engine, copies to and from the device included.
    pub compute_infer: Counted,
    /// Counted with the others as Triton's clients expect; its time is part of `compute_infer`.
    pub compute_output: Counted,
    /// Rows of successful requests.
    pub inference_count: u64,
    /// Batches that ran, each counted once.
    pub execution_count: u64,
    /// Requests that were refused before they had a place in the queue.
    pub refused: u64,
    /// Compute time of batches by their rows, ascending.
    pub batches: BTreeMap<usize, Counted>,
    /// Compute time of requests: one count per bound of [`COMPUTE_BOUNDS_US`], not cumulative, and one above.
    pub compute_histogram: [u64; COMPUTE_BOUNDS_US.len() + 1],
}

/// The requests of one priority level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelStats {
    /// 1 is the highest. A model without priorities has one level.
    pub level: u32,
    /// In the queue now.
    pub pending: u64,
    /// Refused for want of a place, of time, or of a live sequence, since start.
    pub refused: u64,
    /// Accepted, and not run in time, since start.
    pub expired: u64,
}

/// The sequences of a model that keeps state. Cumulative since start but for `live`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SequenceStats {
    pub live: u64,
    /// By their last request.
    pub ended: u64,
    /// Because they were idle for too long.
    pub expired: u64,
    /// Because one of their requests got no result.
    pub lost: u64,
}

/// A consistent snapshot of one model version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStats {
    pub model: String,
    pub version: u64,
    pub provider: Provider,
    pub device: Device,
    /// Every request: for the site itself.
    pub all: Counts,
    /// Only requests whose residency decision lets an aggregate out: the one thing that metric records for the
    /// hub are made from.
    pub exportable: Counts,
    /// Accepted and not answered yet. Counts every request, so it is for the site only.
    pub pending: u64,
    /// By priority level, the highest first. Counts every request, so it is for the site only.
    pub levels: Vec<LevelStats>,
    /// `None` for a model that keeps no state.
    pub sequences: Option<SequenceStats>,
    /// Engines that serve now, side by side.
    pub instances: u64,
    /// 0 before the first.
    pub last_inference_unix_ms: u64,
    pub load_duration: Duration,
    /// Providers of the model's list that could not be used, over all its loads and builds.
    pub provider_failures: u64,
}

/// The numbers of one model version. They outlive a reload, so that sums never go back.
///
/// One lock for all of them, taken once per batch: a snapshot then agrees with itself (the three compute
/// counts are equal, the histogram sums to the successes), which single atomics cannot promise.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    numbers: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    all: Counts,
    exportable: Counts,
    /// By level, pending left out.
    levels: Vec<LevelStats>,
    sequences: SequenceStats,
    last_inference_unix_ms: u64,
    load_duration: Duration,
    provider_failures: u64,
    /// `None` until a load succeeded.
    ran: Option<Ran>,
}

/// What a queue has now.
#[derive(Debug, Default)]
pub(crate) struct Now {
    pub(crate) pending: usize,
    /// By level.
    pub(crate) levels: Vec<usize>,
    pub(crate) sequences: Option<usize>,
    pub(crate) instances: usize,
}

/// What the counters take from a request that succeeded: the timings its reply carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Success {
    pub(crate) timings: Timings,
    pub(crate) rows: usize,
    pub(crate) exportable: bool,
}

impl Stats {
    /// A batch that ran: its successful members, with the timings that their replies carry.
    pub(crate) fn batch(&self, members: impl Iterator<Item = Success>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut numbers = self.lock();
        let (mut ran, mut exported) = (None, None);
        for member in members {
            numbers.all.success(&member);
            ran = Some(member.timings);
            if member.exportable {
                numbers.exportable.success(&member);
                exported = Some(member.timings);
            }
        }
        numbers.all.execution(ran);
        numbers.exportable.execution(exported);
        numbers.last_inference_unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    }

    /// A request that was accepted and ended without a result, `waited` after that.
    pub(crate) fn failed(&self, reason: Reason, waited: Duration, exportable: bool, level: usize) {
        let mut numbers = self.lock();
        if reason == Reason::Deadline {
            numbers.level(level).expired += 1;
        }
        numbers.all.failed(reason, waited);
        if exportable {
            numbers.exportable.failed(reason, waited);
        }
    }

    /// A request that was refused before it had a place in the queue.
    pub(crate) fn refused(&self, error: &Error, exportable: bool) {
        let reason = Reason::of(error.code);
        let mut numbers = self.lock();
        numbers.all.refused(reason);
        if exportable {
            numbers.exportable.refused(reason);
        }
    }

    /// The same refusal, where a queue had no place for it.
    pub(crate) fn level_refused(&self, level: usize) {
        self.lock().level(level).refused += 1;
    }

    pub(crate) fn sequences(&self, count: impl FnOnce(&mut SequenceStats)) {
        count(&mut self.lock().sequences);
    }

    pub(crate) fn loaded(&self, duration: Duration, provider_failures: u64, ran: Ran) {
        let mut numbers = self.lock();
        numbers.load_duration = duration;
        numbers.provider_failures += provider_failures;
        numbers.ran = Some(ran);
    }

    /// The engine was replaced.
    pub(crate) fn placed(&self, ran: Ran) {
        self.lock().ran = Some(ran);
    }

    pub(crate) fn provider_failed(&self) {
        self.lock().provider_failures += 1;
    }

    /// `None` when the version was never loaded.
    pub(crate) fn snapshot(&self, model: &str, version: u64, now: &Now) -> Option<ModelStats> {
        let mut numbers = self.lock();
        if let Some(last) = now.levels.len().checked_sub(1) {
            numbers.level(last);
        }
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let level = |(index, level): (usize, &LevelStats)| LevelStats {
            pending: now.levels.get(index).map_or(0, |pending| count(*pending)),
            ..*level
        };
        let Ran { provider, device } = numbers.ran.clone()?;
        Some(ModelStats {
            model: model.to_owned(),
            version,
            provider,
            device,
            all: numbers.all.clone(),
            exportable: numbers.exportable.clone(),
            pending: count(now.pending),
            levels: numbers.levels.iter().enumerate().map(level).collect(),
            sequences: now.sequences.map(|live| SequenceStats { live: count(live), ..numbers.sequences }),
            instances: count(now.instances),
            last_inference_unix_ms: numbers.last_inference_unix_ms,
            load_duration: numbers.load_duration,
            provider_failures: numbers.provider_failures,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbers {
    fn level(&mut self, index: usize) -> &mut LevelStats {
        while self.levels.len() <= index {
            let level = u32::try_from(self.levels.len() + 1).unwrap_or(u32::MAX);
            self.levels.push(LevelStats { level, ..LevelStats::default() });
        }
        &mut self.levels[index]
    }
}

/// Why a request ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Unavailable,
    Deadline,
    Canceled,
    Backend,
    Other,
}

impl Reason {
    pub(crate) fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Unavailable => Reason::Unavailable,
            ErrorCode::DeadlineExceeded => Reason::Deadline,
            ErrorCode::Internal => Reason::Backend,
            _ => Reason::Other,
        }
    }
}

impl Counts {
    fn success(&mut self, member: &Success) {
        let Timings { queue, batch, compute, .. } = member.timings;
        self.success.add(queue + batch + compute);
        self.queue.add(queue);
        self.compute_input.add(batch);
        self.compute_infer.add(compute);
        self.compute_output.add(Duration::ZERO);
        self.inference_count += u64::try_from(member.rows).unwrap_or(u64::MAX);
        let bucket = COMPUTE_BOUNDS_US.partition_point(|bound| Duration::from_micros(*bound) < compute);
        if let Some(count) = self.compute_histogram.get_mut(bucket) {
            *count += 1;
        }
    }

    fn execution(&mut self, ran: Option<Timings>) {
        if let Some(timings) = ran {
            self.execution_count += 1;
            self.batches.entry(timings.batch_rows).or_default().add(timings.compute);
        }
    }

    fn failed(&mut self, reason: Reason, waited: Duration) {
        self.accepted_unserved.add(reason);
        self.unserved(reason, waited);
    }

    fn unserved(&mut self, reason: Reason, waited: Duration) {
        self.fail.add(waited);
        match reason {
            Reason::Unavailable | Reason::Deadline => self.failures.rejected += 1,
            Reason::Canceled => self.failures.canceled += 1,
            Reason::Backend => self.failures.backend += 1,
            Reason::Other => self.failures.other += 1,
        }
    }

    fn refused(&mut self, reason: Reason) {
        self.refused += 1;
        self.turned_away.add(reason);
        self.unserved(reason, Duration::ZERO);
    }
}
