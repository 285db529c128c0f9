//! What is counted for a model: exact sums, so that folding loses nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Sums over some time for one model, version and provider. Times are in µs. Sums saturate at 2^64 - 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// Replies with success.
    pub requests: u64,
    /// Requests that were accepted and had no successful reply, by reason. A reason that did not occur is absent.
    #[serde(default)]
    pub failed: BTreeMap<FailReason, u64>,
    /// Requests turned away before they were accepted, by reason. A reason that did not occur is absent.
    #[serde(default)]
    pub rejected: BTreeMap<RejectReason, u64>,
    /// Items inferred: a request with a batch of 8 counts 8.
    pub inferences: u64,
    /// Executions of the model.
    pub batches: u64,
    /// Time between acceptance and the batch, summed over requests.
    pub queue_us: u64,
    /// Time to form and split batches, summed over requests.
    pub batch_us: u64,
    /// Time in the engine, summed over requests.
    pub compute_us: u64,
    /// Time in the engine of each successful request.
    pub compute: Histogram,
}

/// Why an accepted request had no successful reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailReason {
    /// The engine or its provider.
    Engine,
    /// Its deadline passed while it waited or ran.
    Deadline,
    /// Its client went away.
    Cancelled,
    /// The agent or the model stopped.
    Stopped,
    /// Its input did not fit the model, which only the engine found out.
    Input,
}

/// Why a request was turned away before it was accepted. A refusal by residency is none of these: nothing about it
/// leaves the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// No room in the model's queue, or the agent or the model was stopping.
    Busy,
    /// Its deadline could not have been met.
    Deadline,
    /// It did not fit the model.
    Input,
    /// A bug: anything without a name of its own.
    Internal,
}

/// Counts per fixed bucket. `counts[i]` has the values `<= BOUNDS_US[i]` and above the bound before; the last has the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    /// One count per bucket.
    pub counts: [u64; Self::BUCKETS],
}

impl Histogram {
    /// Upper bounds in µs, inclusive. Fixed for format version 1.
    pub const BOUNDS_US: [u64; 13] = [
        250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
        2_500_000,
    ];
    /// Buckets: one per bound, and one for what is above them all.
    pub const BUCKETS: usize = Self::BOUNDS_US.len() + 1;

    /// Counts one value.
    pub fn observe(&mut self, value_us: u64) {
        let bucket = Self::BOUNDS_US.partition_point(|bound| *bound < value_us);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
    }

    /// The sum of all buckets.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            *sum = sum.saturating_add(count);
        }
    }
}

impl Counters {
    /// Counts one failure.
    pub fn fail(&mut self, reason: FailReason) {
        add_reason(&mut self.failed, reason, 1);
    }

    /// Counts one request turned away.
    pub fn reject(&mut self, reason: RejectReason) {
        add_reason(&mut self.rejected, reason, 1);
    }

    /// Adds every sum of `other`.
    pub fn add(&mut self, other: &Self) {
        // Taken apart by name: a field that is added later cannot be forgotten here.
        let Self { requests, failed, rejected, inferences, batches, queue_us, batch_us, compute_us, compute } =
            other;
        for (sum, value) in [
            (&mut self.requests, requests),
            (&mut self.inferences, inferences),
            (&mut self.batches, batches),
            (&mut self.queue_us, queue_us),
            (&mut self.batch_us, batch_us),
            (&mut self.compute_us, compute_us),
        ] {
            *sum = sum.saturating_add(*value);
        }
        failed.iter().for_each(|(reason, count)| add_reason(&mut self.failed, *reason, *count));
        rejected.iter().for_each(|(reason, count)| add_reason(&mut self.rejected, *reason, *count));
        self.compute.add(compute);
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

fn add_reason<R: Ord>(reasons: &mut BTreeMap<R, u64>, reason: R, count: u64) {
    let sum = reasons.entry(reason).or_default();
    *sum = sum.saturating_add(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lands_in_the_bucket_of_its_bound() {
        let check = |value_us: u64, bucket: usize| {
            let mut histogram = Histogram::default();
            histogram.observe(value_us);
            assert_eq!(histogram.counts[bucket], 1, "{value_us}");
            assert_eq!(histogram.total(), 1);
        };
        check(0, 0);
        check(250, 0);
        check(251, 1);
        check(2_500_000, 12);
        check(2_500_001, 13);
        check(u64::MAX, 13);
    }
}
