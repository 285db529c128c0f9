//! Sequences: the state of many callers in one model. The engine answers with the sum of a sequence's values.

use proptest::prelude::*;
use wire::{ErrorCode, Sequence, SequenceId};

use super::bounded::Bounded;
use super::*;
use crate::schedule::bounds::{Bounds, Sequencing};

const MINUTE: Duration = Duration::from_secs(60);

fn bounds(max_rows: usize, max_idle: Duration, max_sequences: usize) -> Bounds {
    let sequencing = Some(Sequencing { max_idle, max_sequences });
    Bounds { max_rows, limit: 2048, sequencing, ..Bounds::default() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Middle,
    End,
    Whole,
}

fn step(id: u64, at: At, value: f32) -> Request {
    let (start, end) = (matches!(at, At::Start | At::Whole), matches!(at, At::End | At::Whole));
    Request { sequence: Some(Sequence { id: SequenceId::Number(id), start, end }), ..request(value) }
}

#[tokio::test]
async fn a_sequence_lives_from_its_start_to_its_end() {
    let bounded = Bounded::new(FakeScript::default(), bounds(4, MINUTE, 8), 1);
    let check = async |request: Request, expected: Result<f32, &str>| match (
        bounded.infer(request).await,
        expected,
    ) {
        (Ok(got), Ok(expected)) => assert_eq!(got, expected),
        (Err(error), Err(part)) => {
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains(part), "{error}");
        }
        (got, expected) => panic!("{got:?} instead of {expected:?}"),
    };
    let text = |id: &str, start| Request {
        sequence: Some(Sequence { id: SequenceId::Text(id.to_owned()), start, end: false }),
        ..request(5.0)
    };
    let tenant = |tenant: &str, mut request: Request| {
        request.labels.tenant = tenant.to_owned();
        request
    };
    check(request(1.0), Err("non-zero or non-empty correlation ID")).await;
    check(step(1, At::Middle, 1.0), Err("START flag")).await;
    check(step(1, At::End, 1.0), Err("START flag")).await;
    check(step(1, At::Start, 1.0), Ok(1.0)).await;
    check(step(1, At::Middle, 2.0), Ok(3.0)).await;
    // Others, whatever they are called.
    check(step(2, At::Start, 10.0), Ok(10.0)).await;
    check(text("1", false), Err("START flag")).await;
    check(text("1", true), Ok(5.0)).await;
    check(tenant("other", step(1, At::Middle, 1.0)), Err("START flag")).await;
    check(tenant("other", step(1, At::Start, 7.0)), Ok(7.0)).await;
    check(step(1, At::Middle, 3.0), Ok(6.0)).await;
    assert_eq!(bounded.stats().sequences.unwrap().live, 4);
    // Anew.
    check(step(1, At::Start, 4.0), Ok(4.0)).await;
    check(step(1, At::End, 1.0), Ok(5.0)).await;
    check(step(1, At::Middle, 1.0), Err("begin again")).await;
    check(step(1, At::Whole, 2.0), Ok(2.0)).await;
    let two = Request { sequence: step(3, At::Start, 0.0).sequence, ..rows(&[1.0, 2.0]) };
    check(two, Err("batch-size 1")).await;
    let stats = bounded.stats().sequences.unwrap();
    assert_eq!((stats.live, stats.ended, stats.lost), (3, 2, 0));
    assert_eq!(bounded.states.as_ref().unwrap().len(), 3);
    bounded.assert_idle().await;
}

#[tokio::test]
async fn a_model_without_state_ignores_sequence_ids() {
    let bounded = Bounded::new(FakeScript::default(), Bounds::default(), 1);
    for at in [At::Middle, At::End, At::Start] {
        assert_eq!(bounded.infer(step(1, at, 3.0)).await.unwrap(), 3.0);
    }
    assert_eq!(bounded.stats().sequences, None);
}

#[tokio::test]
async fn requests_of_one_sequence_run_in_order_and_those_of_many_together() {
    let log = engine::fake::Log::default();
    let script = FakeScript { log: Some(Arc::clone(&log)), ..FakeScript::default() };
    let gate = script.runs.clone();
    let bounded = Bounded::new(script, bounds(8, MINUTE, 8), 1);
    let held = gate.close();
    let first = bounded.occupy(step(9, At::Whole, 0.5)).await;
    let mut replies = Vec::new();
    for request in [
        step(1, At::Start, 1.0),
        step(1, At::Middle, 2.0),
        step(2, At::Start, 10.0),
        step(1, At::End, 3.0),
        step(2, At::Middle, 20.0),
        step(1, At::Start, 4.0),
        step(3, At::Start, 30.0),
    ] {
        replies.push(bounded.send(request).unwrap());
    }
    assert_eq!(bounded.send(step(3, At::End, 1.0)).map(drop).ok(), Some(()));
    drop(held);
    first.single().await.unwrap();
    let mut sums = Vec::new();
    for reply in replies {
        sums.push(value(&reply.single().await.unwrap()));
    }
    assert_eq!(sums, [1.0, 3.0, 10.0, 6.0, 30.0, 4.0, 30.0]);
    bounded.assert_idle().await;
    assert_eq!(log.lock().unwrap()[1..4], [vec![1.0, 10.0, 30.0], vec![2.0, 20.0], vec![3.0]]);
}

#[tokio::test]
async fn sequences_are_bounded_and_idle_ones_end() {
    let idle = Duration::from_millis(50);
    let bounded = Bounded::new(FakeScript::default(), bounds(4, idle, 2), 1);
    bounded.infer(step(1, At::Start, 1.0)).await.unwrap();
    bounded.infer(step(2, At::Start, 1.0)).await.unwrap();
    let error = bounded.infer(step(3, At::Start, 1.0)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.retry_after.is_some() && error.message.contains("sequences"), "{error:?}");
    // Nobody asks, and their state is freed all the same.
    eventually("they end", || bounded.states.as_ref().unwrap().is_empty()).await;
    let error = bounded.infer(step(1, At::Middle, 1.0)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert_eq!(bounded.infer(step(3, At::Start, 1.0)).await.unwrap(), 1.0);
    let stats = bounded.stats().sequences.unwrap();
    assert_eq!((stats.live, stats.expired), (1, 2));
}

/// An accepted request without a result: whatever follows does not know that state.
#[tokio::test]
async fn a_lost_step_ends_its_sequence_and_no_other() {
    let check = async |bad: Request, code: Option<ErrorCode>| {
        let script = FakeScript { fail_on: Some(66.0), refuse_on: Some(77.0), ..FakeScript::default() };
        let gate = script.runs.clone();
        let bounded = Bounded::new(script, bounds(4, MINUTE, 8), 2);
        bounded.infer(step(1, At::Start, 1.0)).await.unwrap();
        bounded.infer(step(2, At::Start, 10.0)).await.unwrap();
        let mut held = Some(gate.close());
        let busy =
            [bounded.occupy(step(8, At::Whole, 0.5)).await, bounded.occupy(step(9, At::Whole, 0.5)).await];
        let other = bounded.send(step(2, At::Middle, 5.0)).unwrap();
        let bad = bounded.send(bad).unwrap();
        let behind = bounded.send(step(1, At::Middle, 2.0)).unwrap();
        let anew = bounded.send(step(1, At::Start, 3.0)).unwrap();
        let last = bounded.send(step(1, At::Middle, 4.0)).unwrap();
        let ended = match code {
            None => {
                drop(bad);
                None
            }
            // At its deadline, although the engines are busy.
            Some(ErrorCode::DeadlineExceeded) => bad.single().await.err(),
            Some(_) => {
                held = None;
                bad.single().await.err()
            }
        };
        drop(held);
        assert_eq!(ended.map(|error| error.code), code);
        for reply in busy {
            reply.single().await.unwrap();
        }
        assert_eq!(value(&other.single().await.unwrap()), 15.0);
        let error = behind.single().await.unwrap_err();
        assert!(error.code == ErrorCode::InvalidArgument && error.message.contains("begin again"), "{error}");
        assert_eq!(value(&anew.single().await.unwrap()), 3.0);
        assert_eq!(value(&last.single().await.unwrap()), 7.0);
        assert_eq!(bounded.infer(step(1, At::Middle, 1.0)).await.unwrap(), 8.0);
        assert_eq!(bounded.infer(step(2, At::End, 1.0)).await.unwrap(), 16.0);
        let stats = bounded.stats().sequences.unwrap();
        assert_eq!((stats.live, stats.lost), (1, 1));
        bounded.assert_idle().await;
    };
    check(step(1, At::Middle, 66.0), Some(ErrorCode::Internal)).await;
    check(step(1, At::Middle, 77.0), Some(ErrorCode::InvalidArgument)).await;
    check(step(1, At::Middle, 1.0), None).await;
    let late = Request { timeout: Some(Duration::from_millis(30)), ..step(1, At::Middle, 1.0) };
    check(late, Some(ErrorCode::DeadlineExceeded)).await;
}

#[tokio::test]
async fn a_sequence_of_a_lost_or_closed_version_has_to_begin_again() {
    let script = FakeScript { lose_on: Some(13.0), ..FakeScript::default() };
    let old = Bounded::new(script.clone(), bounds(4, MINUTE, 8), 1);
    old.infer(step(1, At::Start, 1.0)).await.unwrap();
    assert_eq!(old.infer(step(2, At::Start, 13.0)).await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(old.infer(step(1, At::Middle, 1.0)).await.unwrap_err().code, ErrorCode::Unavailable);
    // What serves after it knows no sequence.
    let new = Bounded::new(script, bounds(4, MINUTE, 8), 1);
    let error = new.infer(step(1, At::Middle, 1.0)).await.unwrap_err();
    assert!(error.code == ErrorCode::InvalidArgument && error.message.contains("begin again"), "{error}");
}

#[tokio::test]
async fn sequences_outlive_a_better_engine() {
    let bounded = Bounded::new(FakeScript::default(), bounds(4, MINUTE, 8), 2);
    bounded.infer(step(1, At::Start, 1.0)).await.unwrap();
    let script = FakeScript { sums: true, ..FakeScript::default() };
    let provider = engine::Provider::TensorRt;
    let better = super::bounded::engine(&script, &bounded.runs, bounded.states.as_ref(), provider);
    bounded.model.queue.replace(crate::model::instances(better, 2));
    eventually("it is in place", || bounded.stats().provider == provider).await;
    assert_eq!(bounded.infer(step(1, At::End, 2.0)).await.unwrap(), 3.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// 50 callers, 20 steps each, over one to three instances: the sums of one caller alone.
    #[test]
    fn callers_do_not_see_each_other(
        engines in 1_usize..4,
        max_rows in 0_usize..9,
        restarts in proptest::collection::vec(proptest::collection::vec(any::<proptest::sample::Index>(), 0..3), 50),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let script = FakeScript { fail_every: 0, ..FakeScript::default() };
            let bounded = Arc::new(Bounded::new(script, bounds(max_rows, MINUTE, 50), engines));
            let mut callers = tokio::task::JoinSet::new();
            for (caller, restarts) in restarts.into_iter().enumerate() {
                let bounded = Arc::clone(&bounded);
                callers.spawn(async move {
                    let restarts: Vec<_> = restarts.iter().map(|index| index.index(20)).collect();
                    let mut sum = 0.0;
                    // Half of them send without waiting for the reply before.
                    let mut ahead = Vec::new();
                    for n in 0..20_u8 {
                        let starts = n == 0 || restarts.contains(&usize::from(n));
                        let at = match (starts, n) {
                            (true, 19) => At::Whole,
                            (true, _) => At::Start,
                            (false, 19) => At::End,
                            (false, _) => At::Middle,
                        };
                        let value = f32::from(n) + 1.0;
                        sum = if starts { value } else { sum + value };
                        let id = u64::try_from(caller).unwrap() + 1;
                        let reply = bounded.send(step(id, at, value)).unwrap();
                        if caller % 2 == 0 {
                            assert_eq!(super::value(&reply.single().await.unwrap()), sum);
                        } else {
                            ahead.push((reply, sum));
                        }
                    }
                    for (reply, sum) in ahead {
                        assert_eq!(super::value(&reply.single().await.unwrap()), sum);
                    }
                });
            }
            while let Some(caller) = callers.join_next().await {
                caller.unwrap();
            }
            bounded.assert_idle().await;
            let stats = bounded.stats().sequences.unwrap();
            assert_eq!((stats.live, stats.ended, stats.lost), (0, 50, 0));
            assert!(bounded.states.as_ref().unwrap().is_empty());
        });
    }
}
