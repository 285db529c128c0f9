//! Folding: what happens to the oldest records at the quota. Counters are summed exactly, gauges are dropped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Body, Counters, Egress, Error, Ident, Provider, Record};

/// The most ranges in [`Rollup::earlier`]. There is more than one only if a hub acknowledged records between two foldings and
/// not the roll-up of the first; past the limit the oldest ranges, which no hub waits for any more, are forgotten.
const EARLIER_LIMIT: usize = 64;

/// What stands for the records `first_seq..=last_seq`.
///
/// It is stored under a number of its own, above them. A roll-up is itself a record and can be folded again: the sums come out the same in any order of folding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollup {
    /// The first number it stands for.
    pub first_seq: u64,
    /// The last number it stands for.
    pub last_seq: u64,
    /// Ranges `[first, last]` that roll-ups folded into this one stood for, ascending.
    pub earlier: Vec<[u64; 2]>,
    /// Records folded in, of any kind; a roll-up that is folded brings its own count.
    pub records: u64,
    /// Of these, those that could not be read: their contents are lost.
    pub unreadable: u64,
    /// Numbers that gaps among them stood for: their contents were lost before.
    pub lost: u64,
    /// Earliest start of an interval, ms since the Unix epoch; absent if there was none.
    pub start_unix_ms: Option<u64>,
    /// Latest end of an interval, ms since the Unix epoch; absent if there was none.
    pub end_unix_ms: Option<u64>,
    /// Sums per model, version and provider.
    pub models: Vec<ModelSum>,
    /// Sums of models that did not fit into one record. The totals stay exact, their names are dropped.
    pub others: Counters,
    /// How many entries `others` stands for, added up over foldings.
    pub other_models: u64,
}

/// What one model did over all folded intervals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSum {
    /// The model.
    pub model: Ident,
    /// Its version.
    pub version: Ident,
    /// What computed.
    pub provider: Provider,
    /// Intervals folded in.
    pub intervals: u64,
    /// Their length by the monotonic clock, ms.
    pub duration_ms: u64,
    /// Their sums.
    pub counters: Counters,
}

/// Folds records into one.
#[derive(Debug, Default)]
pub struct RollupBuilder {
    /// The lowest and highest number added.
    added: Option<(u64, u64)>,
    earlier: Vec<[u64; 2]>,
    records: u64,
    unreadable: u64,
    lost: u64,
    start_unix_ms: Option<u64>,
    end_unix_ms: Option<u64>,
    models: BTreeMap<(Ident, Ident, Provider), (u64, u64, Counters)>,
    others: Counters,
    other_models: u64,
}

impl RollupBuilder {
    /// Nothing folded yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Folds in the record stored as `seq`. Bytes that are no record are counted and take their number with them.
    pub fn add(&mut self, seq: u64, bytes: &[u8]) {
        let (lowest, highest) = self.added.unwrap_or((seq, seq));
        self.added = Some((lowest.min(seq), highest.max(seq)));
        let Ok(record) = Record::decode(bytes) else {
            self.records = self.records.saturating_add(1);
            self.unreadable = self.unreadable.saturating_add(1);
            return;
        };
        match record.body {
            Body::Interval(interval) => {
                self.records = self.records.saturating_add(1);
                self.widen(Some(interval.start_unix_ms), Some(interval.end_unix_ms));
                let key = (interval.model, interval.version, interval.provider);
                self.add_model(key, 1, interval.duration_ms, &interval.counters);
            }
            Body::Agent(agent) => {
                self.records = self.records.saturating_add(1);
                self.widen(Some(agent.start_unix_ms), Some(agent.end_unix_ms));
            }
            Body::Gap(gap) => {
                self.records = self.records.saturating_add(1);
                self.lost = self.lost.saturating_add(gap.last_seq - gap.first_seq).saturating_add(1);
                self.earlier.push([gap.first_seq, gap.last_seq]);
            }
            Body::Rollup(rollup) => self.add_rollup(rollup),
        }
    }

    /// The record that stands for `first_seq..=last_seq`, encoded.
    ///
    /// Models that do not fit are summed into `others`, those with the fewest requests first.
    ///
    /// # Errors
    /// [`Error::Inconsistent`] if the range ends before it starts or does not have every number that was added.
    pub fn finish(self, first_seq: u64, last_seq: u64) -> Result<Vec<u8>, Error> {
        if first_seq > last_seq {
            return Err(Error::Inconsistent { what: "roll-up", rule: "first_seq is not above last_seq" });
        }
        if self.added.is_some_and(|(lowest, highest)| lowest < first_seq || highest > last_seq) {
            return Err(Error::Inconsistent { what: "roll-up", rule: "every number added is in its range" });
        }
        let mut models: Vec<ModelSum> = self
            .models
            .into_iter()
            .map(|((model, version, provider), (intervals, duration_ms, counters))| ModelSum {
                model,
                version,
                provider,
                intervals,
                duration_ms,
                counters,
            })
            .collect();
        models.sort_by_key(|sum| std::cmp::Reverse(sum.counters.requests));
        let mut rollup = Rollup {
            first_seq,
            last_seq,
            earlier: merged(self.earlier, [first_seq, last_seq]),
            records: self.records,
            unreadable: self.unreadable,
            lost: self.lost,
            start_unix_ms: self.start_unix_ms,
            end_unix_ms: self.end_unix_ms,
            models,
            others: self.others,
            other_models: self.other_models,
        };
        loop {
            let record = Record::from(rollup);
            match record.encode() {
                Err(Error::TooLong { .. }) => {}
                done => return done,
            }
            let Body::Rollup(mut longer) = record.body else {
                return Err(Error::Inconsistent { what: "roll-up", rule: "a roll-up stays one" });
            };
            let Some(dropped) = longer.models.pop() else {
                return Err(Error::Inconsistent { what: "roll-up", rule: "without models it fits a record" });
            };
            longer.others.add(&dropped.counters);
            longer.other_models = longer.other_models.saturating_add(1);
            rollup = longer;
        }
    }

    fn add_rollup(&mut self, rollup: Rollup) {
        self.records = self.records.saturating_add(rollup.records);
        self.unreadable = self.unreadable.saturating_add(rollup.unreadable);
        self.lost = self.lost.saturating_add(rollup.lost);
        self.widen(rollup.start_unix_ms, rollup.end_unix_ms);
        self.earlier.extend(rollup.earlier);
        self.earlier.push([rollup.first_seq, rollup.last_seq]);
        self.others.add(&rollup.others);
        self.other_models = self.other_models.saturating_add(rollup.other_models);
        for sum in rollup.models {
            let key = (sum.model, sum.version, sum.provider);
            self.add_model(key, sum.intervals, sum.duration_ms, &sum.counters);
        }
    }

    fn add_model(
        &mut self,
        key: (Ident, Ident, Provider),
        intervals: u64,
        duration_ms: u64,
        counters: &Counters,
    ) {
        let sum = self.models.entry(key).or_default();
        sum.0 = sum.0.saturating_add(intervals);
        sum.1 = sum.1.saturating_add(duration_ms);
        sum.2.add(counters);
    }

    fn widen(&mut self, start: Option<u64>, end: Option<u64>) {
        self.start_unix_ms = self.start_unix_ms.into_iter().chain(start).min();
        self.end_unix_ms = self.end_unix_ms.into_iter().chain(end).max();
    }
}

/// Ascending, without overlaps, without what is in `own`; the newest [`EARLIER_LIMIT`] of them.
fn merged(mut ranges: Vec<[u64; 2]>, own: [u64; 2]) -> Vec<[u64; 2]> {
    ranges.retain(|[first, last]| *first < own[0] || *last > own[1]);
    ranges.sort_unstable();
    let mut merged: Vec<[u64; 2]> = Vec::with_capacity(ranges.len());
    for [first, last] in ranges {
        match merged.last_mut() {
            Some(before) if first <= before[1].saturating_add(1) => before[1] = before[1].max(last),
            _ => merged.push([first, last]),
        }
    }
    let surplus = merged.len().saturating_sub(EARLIER_LIMIT);
    merged.split_off(surplus)
}

#[cfg(test)]
mod tests;
