//! Too much at once, too late, or for nobody.

use std::hash::BuildHasher as _;

use wire::ErrorCode;

use super::*;

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::new(script, "queue_limit = 4").await;
    let held = gate.close();
    let mut accepted = vec![agent.occupy().await];
    for n in 0..4_u8 {
        accepted.push(agent.send(request(n.into())).await.unwrap());
    }
    let asked = Instant::now();
    let error = agent.send(request(9.0)).await.unwrap_err();
    assert!(asked.elapsed() < Duration::from_millis(5), "refused after {:?}", asked.elapsed());
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.retry_after.unwrap() >= Duration::from_secs(1));
    assert!(error.message.contains("queue of model 'm' is full"), "{error}");
    drop(held);
    for reply in accepted {
        reply.single().await.unwrap();
    }
    let stats = agent.stats();
    assert_eq!((stats.all.success.count, stats.all.refused, stats.all.failures.rejected), (5, 1, 1));
    agent.assert_idle();
}

#[tokio::test]
async fn retry_after_grows_with_what_waits() {
    let script = FakeScript { compute: Duration::from_millis(400), ..FakeScript::default() };
    let gate = script.runs.clone();
    let agent = Agent::new(script, "queue_limit = 2\nwarmup = false").await;
    agent.infer(1.0).await.unwrap();
    let held = gate.close();
    let replies = [
        agent.occupy().await,
        agent.send(request(1.0)).await.unwrap(),
        agent.send(request(1.0)).await.unwrap(),
    ];
    let error = agent.send(request(9.0)).await.unwrap_err();
    // Three times at least 0.4 s, rounded up.
    assert!(error.retry_after.unwrap() >= Duration::from_secs(2), "{error:?}");
    drop(replies);
    drop(held);
}

#[tokio::test]
async fn a_dead_client_is_dropped_before_the_batch_and_touches_nobody() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::new(script, "max_batch_size = 8\nqueue_limit = 2").await;
    let held = gate.close();
    let running = agent.occupy().await;
    let dead = agent.send(request(1.0)).await.unwrap();
    let alive = agent.send(request(2.0)).await.unwrap();
    drop(dead);
    // Its place is free at once, although the engine is still busy.
    let late = agent.send(request(3.0)).await.unwrap();
    drop(held);
    running.single().await.unwrap();
    let part = alive.single().await.unwrap();
    assert_eq!((value(&part), part.timings.batch_rows), (2.0, 2));
    assert_eq!(value(&late.single().await.unwrap()), 3.0);
    assert_eq!(agent.stats().all.failures.canceled, 1);
    agent.assert_idle();
}

#[tokio::test]
async fn a_client_that_goes_away_while_its_request_runs_is_counted_as_canceled() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::new(script, "").await;
    let held = gate.close();
    drop(agent.occupy().await);
    drop(held);
    eventually("the request ends", || agent.serve.pressure().pending_requests == 0).await;
    let all = agent.stats().all;
    assert_eq!((all.success.count, all.failures.canceled, all.fail.count), (0, 1, 1));
    agent.assert_idle();
}

#[tokio::test]
async fn a_deadline_passes_in_the_queue_even_while_the_engine_is_stuck() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::new(script, "").await;
    let held = gate.close();
    let running = agent.occupy().await;
    let before = agent.runs();
    let error =
        agent.send(with_timeout(1.0, Duration::from_millis(20))).await.unwrap().single().await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::DeadlineExceeded, "Request timeout expired")
    );
    drop(held);
    running.single().await.unwrap();
    agent.infer(1.0).await.unwrap();
    assert_eq!(agent.runs(), before + 1, "the late request ran");
    let all = agent.stats().all;
    assert_eq!((all.failures.rejected, all.failures.canceled, all.refused), (1, 0, 0));
    agent.assert_idle();
}

#[tokio::test]
async fn a_deadline_that_cannot_be_met_is_refused_at_once() {
    let script = FakeScript { compute: Duration::from_millis(30), ..FakeScript::default() };
    let gate = script.runs.clone();
    let agent = Agent::new(script, "").await;
    agent.infer(1.0).await.unwrap();
    let held = gate.close();
    let running = agent.occupy().await;
    let error = agent.send(with_timeout(1.0, Duration::from_millis(20))).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::DeadlineExceeded);
    assert!(error.message.starts_with("Request timeout expired: 1 requests"), "{error}");
    let patient = agent.send(with_timeout(1.0, Duration::from_secs(60))).await.unwrap();
    drop(held);
    running.single().await.unwrap();
    patient.single().await.unwrap();
    agent.assert_idle();
}

#[tokio::test]
async fn bodies_share_one_budget() {
    let agent = Agent::new(FakeScript::default(), "").await;
    assert_eq!(agent.serve.reserve(4097).unwrap_err().code, ErrorCode::TooLarge);
    let held = agent.serve.reserve(4096 - BODY + 1).unwrap();
    let error = agent.send(request(1.0)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.retry_after.is_some());
    drop(held);
    agent.infer(1.0).await.unwrap();
    agent.assert_idle();
}

/// Every way a request can end, in random order and company: no byte and no place is ever kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_given_back_after_every_outcome() {
    let seed = std::hash::RandomState::new().hash_one(0);
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let script = FakeScript { fail_on: Some(66.0), panic_every: 7, fail_every: 5, ..FakeScript::default() };
    let agent =
        Agent::new(script, "max_batch_size = 4\nbatch_delay_us = 50\nqueue_limit = 8\nwarmup = false").await;
    let (mut sent, mut dropped, mut waiting) = (0_u64, 0_u64, Vec::new());
    for _ in 0..3000 {
        let mut request = match random(6) {
            0 => request(66.0),
            1 => rows(&[1.0, 2.0, 3.0]),
            2 => rows(&[0.0; 5]),
            3 => with_timeout(1.0, Duration::from_micros(random(300))),
            _ => request(1.0),
        };
        match random(12) {
            0 => request.model = "nobody".to_owned(),
            1 => request.labels.purpose = "resale".to_owned(),
            2 => request.outputs = vec!["nothing".to_owned()],
            _ => sent += 1,
        }
        let Ok(reply) = agent.send(request).await else { continue };
        match random(3) {
            0 => {
                drop(reply);
                dropped += 1;
            }
            1 => waiting.push(reply),
            _ => {
                reply.single().await.ok();
            }
        }
        if waiting.len() > 6 {
            waiting.drain(..).for_each(drop);
        }
    }
    drop(waiting);
    eventually("everything ends", || agent.serve.pressure().pending_requests == 0).await;
    agent.assert_idle();
    let all = agent.stats().all;
    assert!(all.success.count > 0 && all.failures.backend > 0 && dropped > 0, "{all:?}");
    assert!(all.success.count + all.fail.count - all.failures.other <= sent, "{all:?} of {sent}");
    let failures = all.failures;
    let reasons = failures.rejected + failures.canceled + failures.backend + failures.other;
    assert_eq!(all.fail.count, reasons);
    assert_eq!(all.compute_histogram.iter().sum::<u64>(), all.success.count);
}
