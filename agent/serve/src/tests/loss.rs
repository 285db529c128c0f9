//! Engines that are lost: a device that fell off the bus, a worker that was killed.

use wire::{ErrorCode, Sequence, SequenceId};

use super::*;

fn loses(times: Option<u64>) -> FakeScript {
    let losses = times.map(|times| Arc::new(AtomicU64::new(times)));
    FakeScript { lose_on: Some(13.0), losses, ..FakeScript::default() }
}

fn step(value: f32, start: bool, end: bool) -> Request {
    Request { sequence: Some(Sequence { id: SequenceId::Number(7), start, end }), ..request(value) }
}

/// What runs, what is queued and what comes while the model is loaded again: all of it is answered.
#[tokio::test]
async fn a_lost_engine_costs_no_request() {
    let check = async |model_toml: &str| {
        let script = loses(Some(1));
        let (runs, loads) = (script.runs.clone(), script.loads.clone());
        let agent = Agent::new(script, &format!("queue_limit = 6\n{model_toml}")).await;
        let held = runs.close();
        let mut replies = vec![agent.occupy().await];
        for value in [13.0, 2.0, 3.0] {
            replies.push(agent.send(request(value)).await.unwrap());
        }
        let loading = loads.close();
        drop(held);
        eventually("it is being loaded again", || agent.loads.load(Ordering::Relaxed) == 2).await;
        assert_eq!(agent.state().0, State::Unavailable);
        assert!(agent.state().1.contains("the device is lost"), "{:?}", agent.state());
        assert!(!agent.serve.is_model_ready("m", None).unwrap());
        while let Ok(reply) = agent.send(request(4.0)).await {
            replies.push(reply);
        }
        let full = agent.send(request(5.0)).await.unwrap_err();
        assert!(full.code == ErrorCode::Unavailable && full.message.contains("is full"), "{full}");
        // A place is free again when its deadline passed.
        drop(replies.pop());
        let late = async { agent.send(with_timeout(6.0, Duration::from_millis(20))).await?.single().await };
        assert_eq!(late.await.unwrap_err().code, ErrorCode::DeadlineExceeded);
        drop(loading);
        let mut values = Vec::new();
        for reply in replies {
            values.push(value(&reply.single().await.unwrap()));
        }
        assert_eq!(values[..4], [0.5, 13.0, 2.0, 3.0]);
        assert_eq!(agent.loads.load(Ordering::Relaxed), 2, "loaded more than once again");
        assert_eq!(agent.infer(1.0).await.unwrap().model_version, 1);
        agent.assert_idle();
    };
    check("").await;
    check("max_batch_size = 8").await;
    check("instances = 2\npreserve_ordering = true").await;
}

#[tokio::test]
async fn a_request_that_kills_its_engine_twice_is_told_so_and_takes_nobody_with_it() {
    let script = loses(None);
    let gate = script.runs.clone();
    let agent = Agent::new(script, "max_batch_size = 8").await;
    let held = gate.close();
    let first = agent.occupy().await;
    let mut replies = Vec::new();
    for value in [1.0, 13.0, 2.0] {
        replies.push(agent.send(request(value)).await.unwrap());
    }
    drop(held);
    first.single().await.unwrap();
    let mut ended = Vec::new();
    for reply in replies {
        ended
            .push(reply.single().await.map(|part| value(&part)).map_err(|error| (error.code, error.message)));
    }
    let told = "model 'm' lost its engine twice while it ran this request".to_owned();
    assert_eq!(ended, [Ok(1.0), Err((ErrorCode::Internal, told)), Ok(2.0)]);
    assert_eq!(agent.loads.load(Ordering::Relaxed), 3);
    agent.assert_idle();
}

#[tokio::test]
async fn a_crash_loop_is_slowed_down_told_and_never_given_up() {
    let agent = Agent::new(loses(None), "").await;
    assert_eq!(agent.infer(13.0).await.unwrap_err().code, ErrorCode::Internal);
    agent.infer(1.0).await.unwrap();
    // The third loss in a row: nobody is made to wait for what may take long.
    let error = agent.infer(13.0).await.unwrap_err();
    assert!(error.code == ErrorCode::Unavailable && error.retry_after.is_some(), "{error}");
    let (state, reason) = agent.state();
    assert!(state == State::Unavailable && reason.contains("next load is in 1 s"), "{state} {reason}");
    assert_eq!(agent.infer(1.0).await.unwrap_err().code, ErrorCode::Unavailable);
    eventually("it serves by itself", || agent.state().0 == State::Ready).await;
    agent.infer(1.0).await.unwrap();
    agent.infer(13.0).await.unwrap_err();
    assert!(agent.state().1.contains("next load is in 2 s"), "{:?}", agent.state());
    // Somebody who asks need not wait, and the count begins anew.
    agent.serve.load("m").await.unwrap();
    assert_eq!(agent.infer(13.0).await.unwrap_err().code, ErrorCode::Internal);
    agent.infer(1.0).await.unwrap();
    agent.assert_idle();
}

/// The state is the daemon's, not the engine's.
#[tokio::test]
async fn a_sequence_goes_on_over_a_lost_engine_and_begins_again_over_other_files() {
    let toml = "max_batch_size = 4\n[sequence]\nstate = [{ input = \"state\", output = \"next_state\" }]";
    let script = FakeScript { sums: true, ..loses(Some(1)) };
    let losses = script.losses.clone().unwrap();
    let agent = Agent::new(script, toml).await;
    let sum = async |request| agent.send(request).await?.single().await.map(|part| value(&part));
    assert_eq!(sum(step(1.0, true, false)).await.unwrap(), 1.0);
    assert_eq!(sum(step(13.0, false, false)).await.unwrap(), 14.0);
    assert_eq!(sum(step(2.0, false, false)).await.unwrap(), 16.0);
    write(&agent.root.path().join("m/1/model.onnx"), "other weights");
    losses.store(1, Ordering::Relaxed);
    assert_eq!(sum(step(13.0, false, false)).await.unwrap_err().code, ErrorCode::Unavailable);
    eventually("it serves again", || agent.state().0 == State::Ready).await;
    let error = sum(step(2.0, false, false)).await.unwrap_err();
    assert!(error.code == ErrorCode::InvalidArgument && error.message.contains("begin again"), "{error}");
    assert_eq!(sum(step(3.0, true, true)).await.unwrap(), 3.0);
}

/// What lies in the folder meanwhile is for whoever asks for a load.
#[tokio::test]
async fn what_is_loaded_again_is_what_served() {
    let agent = Agent::new(loses(Some(1)), "max_batch_size = 2").await;
    add_version(agent.root.path(), "m", 2);
    write(&agent.root.path().join("m/model.toml"), "half a li");
    assert_eq!(agent.infer(13.0).await.unwrap().model_version, 1);
    let index: Vec<_> = agent.serve.index().into_iter().map(|it| (it.version, it.state)).collect();
    assert_eq!(index, [(Some(1), State::Ready)]);
}

#[tokio::test]
async fn nobody_waits_for_an_engine_that_will_not_come() {
    // It is unloaded, stopped, or cannot be loaded, while it is lost.
    let check = async |end: &str| {
        let script = loses(None);
        let loads = script.loads.clone();
        let agent = Agent::new(script, "").await;
        let loading = loads.close();
        let reply = agent.send(request(13.0)).await.unwrap();
        eventually("it is being loaded again", || agent.loads.load(Ordering::Relaxed) == 2).await;
        match end {
            "stop" => {
                assert_eq!(agent.serve.drain(Duration::from_secs(20)).await, [""; 0]);
                assert_eq!(reply.single().await.unwrap_err().code, ErrorCode::Unavailable);
                drop(loading);
            }
            "refuse" => {
                fs::remove_dir_all(agent.root.path().join("m/1")).unwrap();
                drop(loading);
                // The first engine lets it in, and is lost with it.
                assert_eq!(reply.single().await.unwrap_err().code, ErrorCode::Internal);
                eventually("it cannot be loaded", || agent.state().1.contains("loading it again failed"))
                    .await;
                assert_eq!(agent.infer(1.0).await.unwrap_err().code, ErrorCode::Unavailable);
            }
            _ => {
                let unload = agent.serve.unload("m");
                drop(loading);
                unload.await.unwrap();
                reply.single().await.unwrap_err();
                assert_eq!(agent.state(), (State::Unavailable, "unloaded".to_owned()));
            }
        }
        agent.assert_idle();
    };
    check("stop").await;
    check("refuse").await;
    check("unload").await;
}

/// The version that is swapped out gets no new engine.
#[tokio::test]
async fn an_engine_that_is_lost_while_its_version_ends_fails_what_it_has() {
    let script = loses(None);
    let gate = script.slow.clone();
    let agent = Agent::new(FakeScript { slow_on: Some(9.0), ..script }, "").await;
    let held = gate.close();
    let before = agent.runs();
    let running = agent.send(request(9.0)).await.unwrap();
    eventually("it runs", || agent.runs() > before).await;
    let queued = agent.send(request(13.0)).await.unwrap();
    add_version(agent.root.path(), "m", 2);
    agent.serve.load("m").await.unwrap();
    drop(held);
    running.single().await.unwrap();
    assert_eq!(queued.single().await.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(agent.infer(1.0).await.unwrap().model_version, 2);
    agent.assert_idle();
}

/// A worker that is killed between two requests is replaced before the next one comes.
#[tokio::test]
async fn an_idle_engine_that_is_lost_is_replaced_once() {
    let script = FakeScript::default();
    let watch = script.watch.clone();
    let agent = Agent::new(script, "instances = 3").await;
    watch.tell("killed by signal 9");
    eventually("it serves again", || agent.state().0 == State::Ready).await;
    assert_eq!(agent.loads.load(Ordering::Relaxed), 2);
    agent.infer(1.0).await.unwrap();
    eventually("the old threads ended", || agent.stats().instances == 3).await;
}
