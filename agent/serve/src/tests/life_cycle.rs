//! Loads, swaps, builds, losses and the end.

use std::sync::atomic::AtomicBool;

use engine::Provider;
use wire::ErrorCode;

use super::*;

#[tokio::test]
async fn a_failed_reload_leaves_the_old_version_serving_and_says_why() {
    let agent = Agent::new(FakeScript::default(), "").await;
    write(&agent.root.path().join("m/model.toml"), "thread = 1");
    let error = agent.serve.load("m").await.unwrap_err();
    assert!(error.message.contains("thread") && error.message.contains("line 1"), "{error}");
    let (state, reason) = agent.state();
    assert_eq!(state, State::Ready);
    assert!(reason.contains("the last load failed") && reason.contains("line 1"), "{reason}");

    // A version that was copied only halfway.
    write(&agent.root.path().join("m/model.toml"), "");
    std::fs::create_dir(agent.root.path().join("m/2")).unwrap();
    agent.serve.load("m").await.unwrap_err();
    let index: Vec<_> = agent.serve.index().into_iter().map(|it| (it.version, it.state, it.reason)).collect();
    let reason = "version 2 has no model.onnx".to_owned();
    assert_eq!(index, [(Some(1), State::Ready, String::new()), (Some(2), State::Unavailable, reason)]);
    agent.infer(1.0).await.unwrap();

    add_version(agent.root.path(), "m", 2);
    agent.serve.load("m").await.unwrap();
    assert_eq!(agent.infer(1.0).await.unwrap().model_version, 2);
    assert_eq!(agent.state(), (State::Ready, String::new()));
    let counts: Vec<_> = agent.serve.stats().iter().map(|it| (it.version, it.all.success.count)).collect();
    assert_eq!(counts, [(1, 1), (2, 1)]);
}

#[tokio::test]
async fn one_bad_model_does_not_stop_the_others() {
    let agent = Agent::new(FakeScript::default(), "").await;
    let root = agent.root.path();
    std::fs::create_dir(root.join("empty")).unwrap();
    add_version(root, "fixed", 1);
    write(&root.join("fixed/model.toml"), "max_batch_size = 4");
    add_version(root, "typo", 3);
    write(&root.join("typo/model.toml"), "\nwarm_up = true");
    let summary = agent.serve.load_all().await;
    assert_eq!(summary.ready, ["fixed", "m"]);
    let failed: Vec<_> = summary.failed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(failed, ["empty", "typo"]);
    assert!(summary.failed[1].1.contains("warm_up") && summary.failed[1].1.contains("line 2"));
    assert!(agent.serve.is_ready());
    assert!(!agent.serve.is_model_ready("typo", None).unwrap());
    assert_eq!(agent.serve.is_model_ready("nobody", None).unwrap_err().code, ErrorCode::UnknownModel);
    agent.infer(1.0).await.unwrap();
}

#[tokio::test]
async fn a_refused_load_and_a_failed_warm_up_are_reasons_in_the_index() {
    let check = async |script: FakeScript, expected: &[&str]| {
        let agent = Agent::new(script, "").await;
        let (state, reason) = agent.state();
        assert_eq!(state, State::Unavailable);
        for part in expected {
            assert!(reason.contains(part), "{reason}");
        }
        assert!(agent.serve.is_ready() && agent.serve.models().is_empty());
        assert_eq!(agent.infer(1.0).await.unwrap_err().code, ErrorCode::NotFound);
        agent.assert_idle();
    };
    check(FakeScript { refuse_load: Some("opset 99".to_owned()), ..FakeScript::default() }, &["opset 99"])
        .await;
    check(FakeScript { fail_every: 1, ..FakeScript::default() }, &["warm-up", "scripted failure"]).await;
    check(FakeScript { panic_every: 1, ..FakeScript::default() }, &["warm-up", "panicked"]).await;
}

#[tokio::test]
async fn a_build_runs_beside_and_then_takes_over() {
    let script = FakeScript { pending_build: Some(Duration::ZERO), ..FakeScript::default() };
    let gate = script.builds.clone();
    let held = gate.close();
    let agent = Agent::new(script, "").await;
    assert_eq!(agent.state().0, State::Building);
    assert!(agent.serve.is_model_ready("m", None).unwrap());
    assert_eq!(agent.infer(1.0).await.unwrap().ran.provider, Provider::Cpu);
    let building = agent.serve.find("m", None).unwrap().building.unwrap();
    assert_eq!((building.provider, building.total.unwrap_or(2)), (Provider::TensorRt, 2));
    drop(held);
    eventually("the engine is replaced", || agent.state().0 == State::Ready).await;
    assert_eq!(agent.infer(1.0).await.unwrap().ran.provider, Provider::TensorRt);
    assert_eq!(agent.serve.find("m", None).unwrap().placement.provider, Provider::TensorRt);
    assert_eq!(agent.stats().provider, Provider::TensorRt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_versions_are_swapped() {
    let agent = Arc::new(Agent::new(FakeScript::default(), "max_batch_size = 4").await);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (agent, stop) = (Arc::clone(&agent), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    agent.infer(1.0).await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    for version in 2..30 {
        add_version(agent.root.path(), "m", version);
        agent.serve.load("m").await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0_u64;
    for client in clients {
        answered += client.await.unwrap();
    }
    let counted: u64 = agent.serve.stats().iter().map(|stats| stats.all.success.count).sum();
    assert!(answered > 0 && answered == counted, "{answered} replies, {counted} counted");
    agent.assert_idle();
}

#[tokio::test]
async fn unload_finishes_what_it_has_and_a_load_brings_it_back() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::new(script, "").await;
    let held = gate.close();
    let (running, queued) = (agent.occupy().await, agent.send(request(2.0)).await.unwrap());
    let unloaded = tokio::spawn({
        let serve = Arc::clone(&agent.serve);
        async move { serve.unload("m").await }
    });
    eventually("it is unloading", || agent.state().0 == State::Unloading).await;
    assert_eq!(agent.infer(1.0).await.unwrap_err().code, ErrorCode::NotFound);
    drop(held);
    running.single().await.unwrap();
    queued.single().await.unwrap();
    unloaded.await.unwrap().unwrap();
    assert_eq!(agent.state(), (State::Unavailable, "unloaded".to_owned()));
    agent.serve.unload("m").await.unwrap();
    assert_eq!(agent.serve.unload("x").await.unwrap_err().code, ErrorCode::UnknownModel);
    agent.serve.load("m").await.unwrap();
    agent.infer(1.0).await.unwrap();
    assert_eq!(agent.stats().all.success.count, 3, "sums never go back");
}

#[tokio::test]
async fn an_unload_does_not_wait_for_members_that_cannot_come() {
    let agent = Agent::new(FakeScript::default(), "max_batch_size = 8\nbatch_delay_us = 60000000").await;
    let waiting = agent.send(request(1.0)).await.unwrap();
    let model = agent.serve.models.find("m", None).unwrap();
    eventually("the engine waits for more", || model.queue.waits_for_more()).await;
    drop(model);
    let unloaded = tokio::time::timeout(Duration::from_secs(5), agent.serve.unload("m"));
    unloaded.await.expect("the unload waits for a batch to fill").unwrap();
    assert_eq!(value(&waiting.single().await.unwrap()), 1.0);
    agent.assert_idle();
}

#[tokio::test]
async fn a_model_that_is_being_loaded_is_worth_coming_back_for() {
    let agent = Agent::new(FakeScript::default(), "").await;
    add_version(agent.root.path(), "late", 1);
    agent.serve.models.announce(|_| true).unwrap();
    for version in [None, Some(1)] {
        let error =
            agent.send(Request { model: "late".to_owned(), version, ..request(1.0) }).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable, "version {version:?}: {error}");
    }
    agent.infer(1.0).await.unwrap();
}

#[tokio::test]
async fn drain_names_what_did_not_finish() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::new(script, "").await;
    let held = gate.close();
    let (running, queued) = (agent.occupy().await, agent.send(request(2.0)).await.unwrap());
    let left = agent.serve.drain(Duration::from_millis(10)).await;
    assert_eq!(left, ["model 'm' version 1: 2 requests"]);
    assert!(!agent.serve.is_ready());
    assert_eq!(queued.single().await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(agent.infer(1.0).await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(agent.serve.load("m").await.unwrap_err().code, ErrorCode::Unavailable);
    drop(held);
    running.single().await.unwrap();
    assert!(agent.serve.drain(Duration::from_secs(20)).await.is_empty());
    agent.assert_idle();
}
