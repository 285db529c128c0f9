use proptest::prelude::*;

use super::*;
use crate::{Agent, ClockState, FailReason, Gap, GapReason, Interval, RECORD_LIMIT_BYTES, RejectReason};

fn interval(model: &str, counters: Counters) -> Record {
    Interval {
        model: Ident::new(model).unwrap(),
        version: Ident::new("1").unwrap(),
        provider: Provider::Cpu,
        start_unix_ms: 1_000,
        end_unix_ms: 2_000,
        clock: ClockState::Synchronised,
        duration_ms: 1_000,
        counters,
    }
    .into()
}

fn agent() -> Record {
    Agent {
        start_unix_ms: 500,
        end_unix_ms: 9_000,
        clock: ClockState::Unknown,
        duration_ms: 1_000,
        uptime_ms: 1,
        resident_bytes: Some(2),
        outbox_records: 3,
        outbox_bytes: 4,
        outbox_limit_bytes: 5,
        models_ready: 6,
    }
    .into()
}

fn fold(records: &[Vec<u8>], first_seq: u64) -> Vec<u8> {
    let mut builder = RollupBuilder::new();
    for (seq, bytes) in (first_seq..).zip(records) {
        builder.add(seq, bytes);
    }
    let last_seq = first_seq + u64::try_from(records.len()).unwrap() - 1;
    builder.finish(first_seq, last_seq).unwrap()
}

fn read(bytes: &[u8]) -> Rollup {
    match Record::decode(bytes).unwrap().body {
        Body::Rollup(rollup) => rollup,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_is_folded_and_the_unreadable_is_counted() {
    let gap = Record::from(Gap { first_seq: 4, last_seq: 4, reason: GapReason::Damaged });
    let one = Counters { requests: 1, ..Counters::default() };
    let records = [
        interval("a", one.clone()).encode().unwrap(),
        interval("a", one).encode().unwrap(),
        agent().encode().unwrap(),
        gap.encode().unwrap(),
        b"no record".to_vec(),
    ];
    let rollup = read(&fold(&records, 1));
    assert_eq!((rollup.first_seq, rollup.last_seq), (1, 5));
    assert_eq!((rollup.records, rollup.unreadable, rollup.lost), (5, 1, 1));
    assert_eq!((rollup.start_unix_ms, rollup.end_unix_ms), (Some(500), Some(9_000)));
    assert_eq!(rollup.models.len(), 1);
    assert_eq!((rollup.models[0].intervals, rollup.models[0].duration_ms), (2, 2_000));
    assert_eq!(rollup.models[0].counters.requests, 2);
    assert!(rollup.others.is_zero());
}

#[test]
fn too_many_models_keep_the_totals_and_drop_the_smallest_names() {
    let records: Vec<_> = (1..=200)
        .map(|requests| {
            let counters = Counters { requests, ..Counters::default() };
            interval(&format!("{requests:0>64}"), counters).encode().unwrap()
        })
        .collect();
    let bytes = fold(&records, 1);
    assert!(bytes.len() <= RECORD_LIMIT_BYTES);
    let rollup = read(&bytes);
    let named: u64 = rollup.models.iter().map(|sum| sum.counters.requests).sum();
    assert_eq!(named + rollup.others.requests, 200 * 201 / 2);
    assert_eq!(rollup.models.len() + usize::try_from(rollup.other_models).unwrap(), 200);
    assert!(rollup.models.len() > 10, "{}", rollup.models.len());
    let smallest_named = rollup.models.iter().map(|sum| sum.counters.requests).min().unwrap();
    assert_eq!(smallest_named, rollup.other_models + 1, "the names with the fewest requests are dropped");
}

#[test]
fn the_largest_possible_sums_still_fit() {
    let failed = [
        FailReason::Engine,
        FailReason::Deadline,
        FailReason::Cancelled,
        FailReason::Input,
        FailReason::Stopped,
    ];
    let rejected = [RejectReason::Busy, RejectReason::Deadline, RejectReason::Input, RejectReason::Internal];
    let most = Counters {
        requests: u64::MAX,
        failed: failed.into_iter().map(|reason| (reason, u64::MAX)).collect(),
        rejected: rejected.into_iter().map(|reason| (reason, u64::MAX)).collect(),
        inferences: u64::MAX,
        batches: u64::MAX,
        queue_us: u64::MAX,
        batch_us: u64::MAX,
        compute_us: u64::MAX,
        compute: crate::Histogram { counts: [u64::MAX; crate::Histogram::BUCKETS] },
    };
    let records: Vec<_> =
        (0..40).map(|n| interval(&format!("{n:0>64}"), most.clone()).encode().unwrap()).collect();
    let rollup = read(&fold(&records, u64::MAX - 100));
    assert_eq!(rollup.others.requests, u64::MAX, "saturates");
}

#[test]
fn a_range_that_ends_before_it_starts_is_refused() {
    assert!(RollupBuilder::new().finish(2, 1).is_err());
    let mut outside = RollupBuilder::new();
    outside.add(3, b"");
    assert!(outside.finish(1, 2).is_err());
    let backwards = br#"{"v":1,"body":{"gap":{"first_seq":2,"last_seq":1,"reason":"damaged"}}}"#;
    assert!(matches!(Record::decode(backwards), Err(Error::Inconsistent { .. })));
}

#[test]
fn the_ranges_of_earlier_roll_ups_are_kept() {
    let check = |ranges: &[[u64; 2]], wanted: &[[u64; 2]]| {
        assert_eq!(merged(ranges.to_vec(), [100, 199]), wanted, "{ranges:?}");
    };
    check(&[], &[]);
    check(&[[1, 50]], &[[1, 50]]);
    check(&[[51, 60], [1, 50]], &[[1, 60]]);
    check(&[[1, 50], [52, 60]], &[[1, 50], [52, 60]]);
    check(&[[1, 50], [20, 30]], &[[1, 50]]);
    check(&[[120, 130]], &[]);
    let many: Vec<_> = (0..100).map(|n| [1_000 + 2 * n, 1_000 + 2 * n]).collect();
    assert_eq!(merged(many, [1, 9]).len(), EARLIER_LIMIT);
}

prop_compose! {
    fn any_counters()(sums in proptest::array::uniform6(0..1u64 << 40), failed in 0..5u64, rejected in 0..5u64, us in 0..5_000_000u64) -> Counters {
        let [requests, inferences, batches, queue_us, batch_us, compute_us] = sums;
        let mut counters = Counters { requests, inferences, batches, queue_us, batch_us, compute_us, ..Counters::default() };
        (0..failed).for_each(|_| counters.fail(FailReason::Engine));
        (0..rejected).for_each(|_| counters.reject(RejectReason::Busy));
        counters.compute.observe(us);
        counters
    }
}

proptest! {
    #[test]
    fn sums_are_exact_in_any_order_of_folding(
        all in proptest::collection::vec((0..6usize, any_counters()), 1..40),
        cut in any::<prop::sample::Index>(),
        names in Just(["a", "b", "c", "d", "e", "f"]),
    ) {
        let mut wanted = Counters::default();
        all.iter().for_each(|(_, counters)| wanted.add(counters));
        let records: Vec<_> =
            all.iter().map(|(model, counters)| interval(names[*model], counters.clone()).encode().unwrap()).collect();
        let at_once = read(&fold(&records, 1));

        // As the journal does: the roll-up of the first part is appended above the rest, then all that is left is folded.
        let cut = cut.index(records.len());
        let mut twice = RollupBuilder::new();
        let above = at_once.last_seq + 1;
        for (seq, bytes) in (1..).zip(&records).skip(cut) {
            twice.add(seq, bytes);
        }
        let first = u64::try_from(cut).unwrap() + 1;
        let mut wanted_twice = at_once.clone();
        wanted_twice.first_seq = first;
        wanted_twice.last_seq = above;
        if cut > 0 {
            twice.add(above, &fold(&records[..cut], 1));
            wanted_twice.earlier = vec![[1, first - 1]];
        }
        prop_assert_eq!(read(&twice.finish(first, above).unwrap()), wanted_twice);

        let mut sum = at_once.others.clone();
        at_once.models.iter().for_each(|model| sum.add(&model.counters));
        prop_assert_eq!(sum, wanted);
        prop_assert_eq!(at_once.records, u64::try_from(records.len()).unwrap());
    }

    #[test]
    fn no_bytes_break_it(records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..10)) {
        let rollup = read(&fold(&records, 1));
        prop_assert_eq!(rollup.records, u64::try_from(records.len()).unwrap());
        prop_assert_eq!(rollup.unreadable, rollup.records);
    }
}
