//! Random histories against a model: a map of what callers were told is committed. Whatever happens to the disk, every
//! record that is read is one that was appended, unchanged and under its number; in order; and what is missing was
//! acknowledged, folded, or lies in a gap that was reported where the disk was damaged.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::Config;

use super::{Bench, payload};
use crate::{Error, Gap, IndexState, Opened, Stream};

#[derive(Debug, Clone)]
enum Step {
    Append { len: usize },
    AppendTogether { count: usize },
    Take { skip: u64, records: usize, bytes: usize },
    Acknowledge { percent: u64 },
    RollUp { want_bytes: u64 },
    FailSyncs { count: u32, truncates_too: bool },
    TearWrite,
    FillDisk { room: usize },
    FreeDisk,
    Damage { segment: usize, byte: usize },
    Reopen { index: IndexLoss },
    PowerCut { kept: usize, index: IndexLoss },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum IndexLoss {
    None,
    Removed,
    Corrupted,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = || prop_oneof![4 => Just(IndexLoss::None), 1 => Just(IndexLoss::Removed), 1 => Just(IndexLoss::Corrupted)];
    let step = prop_oneof![
        20 => (8_usize..=512).prop_map(|len| Step::Append { len }),
        8 => (1_usize..=20).prop_map(|count| Step::AppendTogether { count }),
        4 => (0_u64..40, 0_usize..20, 0_usize..2000).prop_map(|(skip, records, bytes)| Step::Take { skip, records, bytes }),
        5 => (0_u64..=110).prop_map(|percent| Step::Acknowledge { percent }),
        3 => (1_u64..4000).prop_map(|want_bytes| Step::RollUp { want_bytes }),
        2 => (1_u32..4, any::<bool>()).prop_map(|(count, truncates_too)| Step::FailSyncs { count, truncates_too }),
        2 => Just(Step::TearWrite),
        2 => (0_usize..1000).prop_map(|room| Step::FillDisk { room }),
        2 => Just(Step::FreeDisk),
        2 => (0_usize..8, 0_usize..1500).prop_map(|(segment, byte)| Step::Damage { segment, byte }),
        3 => index().prop_map(|index| Step::Reopen { index }),
        3 => (0_usize..700, index()).prop_map(|(kept, index)| Step::PowerCut { kept, index }),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]
    #[test]
    fn nothing_accepted_is_lost_and_nothing_else_is_read(steps in steps()) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check(step);
        }
    }
}

struct Run {
    bench: Bench,
    stream: Option<Stream>,
    epoch: u64,
    /// What callers were told is stored, and still wanted.
    records: BTreeMap<u64, Vec<u8>>,
    /// Payloads whose commit failed: they may turn up after a reopen.
    perhaps: BTreeSet<Vec<u8>>,
    /// Roll-ups whose commit failed: payload and range.
    perhaps_folded: Vec<(Vec<u8>, u64, u64)>,
    acked: u64,
    next_payload: u64,
    damaged: bool,
    highest_seq: u64,
    opened_gaps: Vec<Gap>,
}

impl Run {
    fn new() -> Self {
        let bench = Bench::new();
        let (stream, opened) = bench.open();
        Self {
            bench,
            stream: Some(stream),
            epoch: opened.epoch,
            records: BTreeMap::new(),
            perhaps: BTreeSet::new(),
            perhaps_folded: Vec::new(),
            acked: 0,
            next_payload: 1,
            damaged: false,
            highest_seq: 0,
            opened_gaps: Vec::new(),
        }
    }

    fn stream(&self) -> &Stream {
        self.stream.as_ref().unwrap()
    }

    fn payload(&mut self, len: usize) -> Vec<u8> {
        self.next_payload += 1;
        payload(self.next_payload, len)
    }

    fn appended(&mut self, payload: Vec<u8>, result: Result<u64, Error>) {
        match result {
            Ok(seq) => {
                assert!(seq > self.highest_seq, "number {seq} was given twice");
                self.highest_seq = self.highest_seq.max(seq);
                self.records.insert(seq, payload);
            }
            Err(Error::QuotaExceeded { .. }) => {}
            Err(Error::Io { .. } | Error::DiskFull { .. }) => drop(self.perhaps.insert(payload)),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { len } => {
                let payload = self.payload(len);
                let result = self.stream().append_blocking(payload.clone());
                self.appended(payload, result);
            }
            Step::AppendTogether { count } => {
                let payloads: Vec<_> = (0..count).map(|_| self.payload(30)).collect();
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let results = runtime.block_on(async {
                    let append = |payload: &Vec<u8>| {
                        let (stream, payload) = (self.stream().clone(), payload.clone());
                        tokio::spawn(async move { stream.append(payload).await })
                    };
                    let tasks: Vec<_> = payloads.iter().map(append).collect();
                    let mut results = Vec::new();
                    for task in tasks {
                        results.push(task.await.unwrap());
                    }
                    results
                });
                let mut done: Vec<_> = payloads.into_iter().zip(results).collect();
                done.sort_by_key(|(_, result)| result.as_ref().ok().copied());
                for (payload, result) in done {
                    self.appended(payload, result);
                }
            }
            Step::Take { skip, records, bytes } => {
                let all = self.stream().take(0, usize::MAX, usize::MAX).unwrap();
                let from = self.acked + skip;
                let some = self.stream().take(from, records, bytes).unwrap();
                let mut left = bytes;
                let expected: Vec<_> = all
                    .into_iter()
                    .filter(|(seq, _)| *seq >= from)
                    .take(records)
                    .enumerate()
                    .take_while(|(at, (_, payload))| {
                        let fits = *at == 0 || payload.len() <= left;
                        left = left.saturating_sub(payload.len());
                        fits
                    })
                    .map(|(_, record)| record)
                    .collect();
                assert_eq!(some, expected);
            }
            Step::Acknowledge { percent } => {
                let head = self.stream().status().next_seq - 1;
                let upto = self.acked + (head - self.acked) * percent / 100;
                match self.stream().acknowledge(upto) {
                    Ok(()) => self.acked = self.acked.max(upto),
                    Err(Error::BeyondHead { head_seq, .. }) => assert!(upto > head_seq),
                    Err(error) => panic!("{error:?}"),
                }
                self.records = self.records.split_off(&(self.acked + 1));
            }
            Step::RollUp { want_bytes } => self.roll_up(want_bytes),
            Step::FailSyncs { count, truncates_too } => {
                self.bench.disk.world().failing_syncs = count;
                self.bench.disk.world().failing_truncates = truncates_too;
            }
            Step::TearWrite => self.bench.disk.world().torn_write = Some(std::io::ErrorKind::StorageFull),
            Step::FillDisk { room } => {
                let mut world = self.bench.disk.world();
                world.capacity = world.used() + room;
            }
            Step::FreeDisk => self.bench.disk.world().capacity = 0,
            Step::Damage { segment, byte } => {
                let segments = self.bench.segments();
                let path = &segments[segment % segments.len()];
                let len = self.bench.disk.world().len(path);
                if len > 0 {
                    self.bench.disk.world().flip(path, byte % len);
                    self.damaged = true;
                }
            }
            Step::Reopen { index } => self.reopen(None, index),
            Step::PowerCut { kept, index } => self.reopen(Some(kept), index),
        }
    }

    fn roll_up(&mut self, want_bytes: u64) {
        let record = self.payload(64);
        let mut fold = Folding { record: record.clone(), seen: Vec::new(), range: None };
        let result = self.stream().roll_up(&mut fold, want_bytes);
        let Folding { seen, range, .. } = fold;
        let Some((first, last)) = range else {
            assert!(
                matches!(result, Ok(None) | Err(Error::DiskFull { .. } | Error::Io { .. })),
                "{result:?}"
            );
            return;
        };
        if !self.damaged {
            let expected: Vec<_> =
                self.records.range(first..=last).map(|(seq, payload)| (*seq, payload.clone())).collect();
            assert_eq!(seen, expected);
        }
        match result {
            Ok(new) => {
                self.records.retain(|seq, _| *seq > last);
                self.appended(record, Ok(new.unwrap()));
            }
            Err(Error::QuotaExceeded { .. }) => {}
            Err(Error::Io { .. } | Error::DiskFull { .. }) => {
                self.perhaps.insert(record.clone());
                self.perhaps_folded.push((record, first, last));
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn reopen(&mut self, power_cut: Option<usize>, index: IndexLoss) {
        self.stream = None;
        {
            let mut world = self.bench.disk.world();
            (world.failing_syncs, world.torn_write, world.failing_truncates) = (0, None, false);
            if let Some(kept) = power_cut {
                world.power_cut(kept);
            }
        }
        match index {
            IndexLoss::None => {}
            IndexLoss::Removed => drop(std::fs::remove_dir_all(self.bench.dir().join("index"))),
            IndexLoss::Corrupted => self.bench.corrupt_index(),
        }
        let (stream, opened) = match self.bench.try_open() {
            Ok(opened) => opened,
            Err(Error::DiskFull { .. }) => {
                self.bench.disk.world().capacity = 0;
                self.bench.open()
            }
            Err(error) => panic!("{error:?}"),
        };
        self.stream = Some(stream);
        assert_eq!((opened.epoch, opened.created), (self.epoch, false));
        self.settle(&opened, index != IndexLoss::None);
    }

    /// Takes over what a reopen may decide either way.
    fn settle(&mut self, opened: &Opened, index_lost: bool) {
        if index_lost {
            // A damaged tail cannot be told from a torn write when nothing else remembers the commit.
            let next_seq = self.stream().status().next_seq;
            assert!(self.damaged || next_seq > self.highest_seq);
            self.records.split_off(&next_seq);
            self.highest_seq = next_seq - 1;
        } else {
            assert_eq!(opened.index, IndexState::Intact);
        }
        for (seq, payload) in self.stream().take(0, usize::MAX, usize::MAX).unwrap() {
            if seq > self.highest_seq || !self.records.contains_key(&seq) && self.perhaps.contains(&payload) {
                assert!(self.perhaps.remove(&payload), "record {seq} was never appended");
                if let Some((_, _, last)) = self.perhaps_folded.iter().find(|(folded, ..)| *folded == payload)
                {
                    let last = *last;
                    self.records.retain(|seq, _| *seq > last);
                }
                self.highest_seq = self.highest_seq.max(seq);
                self.records.insert(seq, payload);
            }
        }
        self.perhaps.clear();
        self.perhaps_folded.clear();
        self.opened_gaps.clone_from(&opened.gaps);
    }

    fn check(&self, step: &Step) {
        let taken = self.stream().take(0, usize::MAX, usize::MAX).unwrap();
        assert!(taken.is_sorted_by(|one, next| one.0 < next.0));
        let status = self.stream().status();
        for (seq, payload) in &taken {
            assert_eq!(self.records.get(seq), Some(payload), "record {seq} after {step:?}");
        }
        let taken: BTreeSet<u64> = taken.into_iter().map(|(seq, _)| seq).collect();
        let missing: Vec<u64> = self.records.keys().copied().filter(|seq| !taken.contains(seq)).collect();
        assert!(missing.is_empty() || self.damaged, "{missing:?} are missing after {step:?}");
        for seq in missing {
            let mut gaps = status.gaps.iter().chain(&self.opened_gaps);
            assert!(
                gaps.any(|gap| gap.first <= seq && seq <= gap.last),
                "{seq} is missing unreported after {step:?}"
            );
        }
        for gap in &status.gaps {
            assert!(self.damaged, "{gap:?} without damage after {step:?}");
            assert!(taken.range(gap.first..=gap.last).next().is_none(), "{gap:?} is there after {step:?}");
        }
        assert_eq!((status.epoch, status.acked_seq), (self.epoch, self.acked));
        assert!(status.disk_bytes <= status.quota_bytes + 512 + 48);
        let pending = u64::try_from(taken.len()).unwrap();
        assert!(
            status.pending_records == pending || self.damaged,
            "{} pending, {pending} taken",
            status.pending_records
        );
    }
}

/// Notes what is folded and makes the given record of it.
struct Folding {
    record: Vec<u8>,
    seen: Vec<(u64, Vec<u8>)>,
    range: Option<(u64, u64)>,
}

impl crate::Fold for Folding {
    fn add(&mut self, seq: u64, record: &[u8]) {
        self.seen.push((seq, record.to_vec()));
    }

    fn finish(&mut self, first: u64, last: u64) -> Option<Vec<u8>> {
        self.range = Some((first, last));
        Some(self.record.clone())
    }
}
