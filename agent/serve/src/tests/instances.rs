//! Several engines behind one queue.

use std::sync::atomic::AtomicBool;

use engine::Provider;
use engine::fake::FakeEngine;
use wire::ErrorCode;

use super::bounded::Bounded;
use super::*;
use crate::model::instances;
use crate::schedule::Bounds;

fn bounded(script: FakeScript, engines: usize) -> Bounded {
    Bounded::new(script, Bounds::default(), engines)
}

#[tokio::test]
async fn as_many_run_at_a_time_as_there_are_instances() {
    let check = async |engines: usize, max_rows, expected: u64| {
        let script = FakeScript::default();
        let gate = script.runs.clone();
        let bounded = Bounded::new(script, Bounds { max_rows, ..Bounds::default() }, engines);
        assert_eq!(bounded.stats().instances, u64::try_from(engines).unwrap());
        let held = gate.close();
        let mut replies = Vec::new();
        for n in 1..=expected {
            replies.push(bounded.send(request(1.0)).unwrap());
            let runs = || bounded.runs.load(Ordering::Relaxed);
            eventually("an instance takes it", || runs() == n).await;
        }
        replies.push(bounded.send(request(2.0)).unwrap());
        // Had one more thread been free, it would run.
        assert_eq!(bounded.stats().levels[0].pending, 1);
        drop(held);
        for reply in replies {
            reply.single().await.unwrap();
        }
        bounded.assert_idle().await;
    };
    check(1, 0, 1).await;
    check(2, 0, 2).await;
    check(3, 4, 3).await;
}

#[tokio::test]
async fn what_comes_together_is_run_by_all() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let bounded = bounded(script, 4);
    let held = gate.close();
    let replies: Vec<_> = (0..4).map(|_| bounded.send(request(1.0)).unwrap()).collect();
    eventually("all run", || bounded.runs.load(Ordering::Relaxed) == 4).await;
    drop(held);
    for reply in replies {
        reply.single().await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_instance_does_not_hold_the_other() {
    let script = FakeScript { slow_on: Some(13.0), ..FakeScript::default() };
    let slow = script.slow.clone();
    let bounded = bounded(script, 2);
    let held = slow.close();
    let stuck = bounded.occupy(request(13.0)).await;
    for n in 0..20_u8 {
        assert_eq!(bounded.infer(request(n.min(12).into())).await.unwrap(), f32::from(n.min(12)));
    }
    drop(held);
    stuck.single().await.unwrap();
    bounded.assert_idle().await;
}

#[tokio::test]
async fn replies_keep_the_order_where_they_must() {
    let check = async |preserve_ordering| {
        let script = FakeScript { slow_on: Some(13.0), ..FakeScript::default() };
        let slow = script.slow.clone();
        let bounds = Bounds { preserve_ordering, ..Bounds::default() };
        let bounded = Bounded::new(script, bounds, 2);
        let held = slow.close();
        let first = bounded.occupy(request(13.0)).await;
        let second = bounded.occupy(request(2.0)).await;
        // Its instance takes the next one, so the second is done.
        let third = bounded.occupy(request(3.0)).await;
        let answered = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&answered);
        let second = tokio::spawn(async move {
            let part = second.single().await;
            told.store(true, Ordering::SeqCst);
            part
        });
        if preserve_ordering {
            let late = bounded.send(with_timeout(4.0, Duration::from_millis(30))).unwrap();
            // A deadline holds all the same.
            assert_eq!(late.single().await.unwrap_err().code, ErrorCode::DeadlineExceeded);
            assert!(!answered.load(Ordering::SeqCst), "the second came first");
        } else {
            eventually("the second is answered", || answered.load(Ordering::SeqCst)).await;
        }
        drop(held);
        assert_eq!(value(&first.single().await.unwrap()), 13.0);
        assert_eq!(value(&second.await.unwrap().unwrap()), 2.0);
        assert_eq!(value(&third.single().await.unwrap()), 3.0);
        bounded.assert_idle().await;
    };
    check(false).await;
    check(true).await;
}

#[tokio::test]
async fn a_failed_batch_keeps_its_place_in_the_order() {
    let script = FakeScript { slow_on: Some(13.0), fail_on: Some(66.0), ..FakeScript::default() };
    let (slow, gate) = (script.slow.clone(), script.runs.clone());
    let bounds = Bounds { preserve_ordering: true, max_rows: 4, ..Bounds::default() };
    let bounded = Bounded::new(script, bounds, 2);
    let held = slow.close();
    let first = bounded.occupy(request(13.0)).await;
    let closed = gate.close();
    let busy = bounded.occupy(request(1.0)).await;
    let batch = [bounded.send(request(66.0)).unwrap(), bounded.send(request(2.0)).unwrap()];
    let before = bounded.runs.load(Ordering::Relaxed);
    drop(closed);
    eventually("its members ran one by one", || bounded.runs.load(Ordering::Relaxed) == before + 3).await;
    drop(held);
    first.single().await.unwrap();
    busy.single().await.unwrap();
    let [bad, good] = batch;
    assert_eq!(bad.single().await.unwrap_err().code, ErrorCode::Internal);
    assert_eq!(value(&good.single().await.unwrap()), 2.0);
    bounded.assert_idle().await;
}

#[tokio::test]
async fn every_instance_changes_to_the_better_engine_or_ends() {
    let check = async |single, expected: u64| {
        let bounded = bounded(FakeScript::default(), 3);
        let script = FakeScript { single, ..FakeScript::default() };
        let better = FakeEngine::new(script, Arc::clone(&bounded.runs), Provider::TensorRt);
        bounded.model.queue.replace(instances(Box::new(better), 3));
        eventually("all changed", || bounded.stats().instances == expected).await;
        eventually("it is in place", || bounded.stats().provider == Provider::TensorRt).await;
        for _ in 0..10 {
            let part = bounded.send(request(1.0)).unwrap().single().await.unwrap();
            assert_eq!(part.ran.provider, Provider::TensorRt);
        }
        bounded.assert_idle().await;
        bounded.model.join();
    };
    check(false, 3).await;
    check(true, 1).await;
}

#[tokio::test]
async fn a_device_that_is_lost_is_told_once_and_fails_who_waits() {
    let script = FakeScript { lose_on: Some(13.0), slow_on: Some(7.0), ..FakeScript::default() };
    let (slow, gate) = (script.slow.clone(), script.runs.clone());
    let bounded = bounded(script, 3);
    let (held, closed) = (slow.close(), gate.close());
    let fine = bounded.occupy(request(7.0)).await;
    let lost = [bounded.occupy(request(13.0)).await, bounded.occupy(request(13.0)).await];
    let waiting = bounded.send(request(1.0)).unwrap();
    drop(closed);
    for reply in lost.into_iter().chain([waiting]) {
        assert_eq!(reply.single().await.unwrap_err().code, ErrorCode::Unavailable);
    }
    eventually("it was told", || bounded.lost.load(Ordering::SeqCst) > 0).await;
    assert_eq!(bounded.send(request(1.0)).unwrap_err().code, ErrorCode::Unavailable);
    drop(held);
    assert_eq!(value(&fine.single().await.unwrap()), 7.0);
    bounded.assert_idle().await;
    bounded.model.join();
    assert_eq!(bounded.lost.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_runs_what_is_queued_and_ends_every_thread() {
    for max_rows in [0, 4] {
        let bounded = Bounded::new(FakeScript::default(), Bounds { max_rows, ..Bounds::default() }, 3);
        let replies: Vec<_> = (0..50).map(|_| bounded.send(request(1.0)).unwrap()).collect();
        bounded.model.join();
        for reply in replies {
            reply.single().await.unwrap();
        }
        assert_eq!(bounded.send(request(1.0)).unwrap_err().code, ErrorCode::Unavailable);
        assert_eq!(bounded.stats().instances, 0);
        bounded.assert_idle().await;
    }
}
