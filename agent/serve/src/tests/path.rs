//! One request after the other, and together.

use wire::{ErrorCode, Timings};

use super::*;

#[tokio::test]
async fn a_reply_carries_its_outputs_and_its_timings() {
    let agent = Agent::new(FakeScript::default(), "").await;
    let part = agent.infer(7.0).await.unwrap();
    assert_eq!((value(&part), part.outputs[0].name.as_str(), part.model_version), (7.0, "output", 1));
    assert_eq!((part.ran.device.id.as_str(), part.timings.batch_rows), ("fake", 1));
    let all = agent.stats().all;
    let Timings { queue, batch, compute, .. } = part.timings;
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap();
    // The statistics are the reply's own numbers.
    assert_eq!(all.queue.ns, ns(queue));
    assert_eq!(all.compute_input.ns, ns(batch));
    assert_eq!(all.compute_infer.ns, ns(compute));
    assert_eq!(all.success.ns, ns(queue + batch + compute));
    assert_eq!((all.success.count, all.inference_count, all.execution_count), (1, 1, 1));
    assert_eq!((all.compute_input.count, all.compute_output.count), (1, 1));
}

#[tokio::test]
async fn what_waits_runs_together_and_each_gets_its_own_rows() {
    let script = FakeScript::default();
    let gate = script.runs.clone();
    let agent = Agent::new(script, "max_batch_size = 4").await;
    let held = gate.close();
    let running = agent.occupy().await;
    let one = agent.send(request(1.0)).await.unwrap();
    let two = agent.send(rows(&[2.0, 2.5])).await.unwrap();
    let three = agent.send(rows(&[3.0, 3.5])).await.unwrap();
    drop(held);
    running.single().await.unwrap();
    let mut seen = Vec::new();
    for reply in [one, two, three] {
        let part = reply.single().await.unwrap();
        seen.push((value(&part), part.outputs[0].tensor.rows(), part.timings.batch_rows));
    }
    // The third would have made five rows.
    assert_eq!(seen, [(1.0, 1, 3), (2.0, 2, 3), (3.0, 2, 2)]);
    let all = agent.stats().all;
    assert_eq!((all.success.count, all.inference_count, all.execution_count), (4, 6, 3));
    assert_eq!(all.batches.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_full_batch_does_not_wait_for_its_delay() {
    let agent = Agent::new(FakeScript::default(), "max_batch_size = 2\nbatch_delay_us = 60000000").await;
    let started = Instant::now();
    let (one, two) = tokio::join!(agent.infer(1.0), agent.infer(2.0));
    assert_eq!((one.unwrap().timings.batch_rows, two.unwrap().timings.batch_rows), (2, 2));
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_batch_waits_for_its_delay_and_no_longer() {
    let agent = Agent::new(FakeScript::default(), "max_batch_size = 8\nbatch_delay_us = 20000").await;
    let part = agent.infer(1.0).await.unwrap();
    assert!(part.timings.queue >= Duration::from_millis(20), "{:?}", part.timings);
}

#[tokio::test]
async fn a_deadline_comes_before_the_delay_from_the_first_request_on() {
    let agent = Agent::new(FakeScript::default(), "max_batch_size = 8\nbatch_delay_us = 60000000").await;
    let reply = agent.send(with_timeout(1.0, Duration::from_secs(1))).await.unwrap();
    assert_eq!(value(&reply.single().await.unwrap()), 1.0);
}

#[tokio::test]
async fn a_poison_request_does_not_fail_its_batch_mates() {
    let script = FakeScript { fail_on: Some(66.0), ..FakeScript::default() };
    let gate = script.runs.clone();
    let agent = Agent::new(script, "max_batch_size = 8").await;
    let held = gate.close();
    let running = agent.occupy().await;
    let before = agent.runs();
    let (good, bad, other) =
        (agent.send(request(1.0)).await, agent.send(request(66.0)).await, agent.send(request(2.0)).await);
    drop(held);
    running.single().await.unwrap();
    assert_eq!(value(&good.unwrap().single().await.unwrap()), 1.0);
    assert_eq!(bad.unwrap().single().await.unwrap_err().code, ErrorCode::Internal);
    assert_eq!(value(&other.unwrap().single().await.unwrap()), 2.0);
    assert_eq!(agent.runs(), before + 4, "the batch, then one by one");
    assert_eq!(agent.stats().all.failures.backend, 1);
    agent.assert_idle();
}

#[tokio::test]
async fn a_log_quotes_no_payload_and_says_the_same_of_every_failure() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let lines = tracing_subscriber::fmt().without_time().with_ansi(false);
    let lines = lines.with_writer(std::sync::Mutex::new(log.reopen().unwrap()));
    // Engines have threads of their own. No other test logs about the inputs of this one.
    tracing::subscriber::set_global_default(lines.finish()).unwrap();
    let script = FakeScript { refuse_on: Some(7777.0), fail_on: Some(66.0), ..FakeScript::default() };
    let agent = Agent::new(script, "").await;
    for refused in [true, false, true, false] {
        let error = agent.infer(if refused { 7777.0 } else { 66.0 }).await.unwrap_err();
        let code = if refused { ErrorCode::InvalidArgument } else { ErrorCode::Internal };
        assert_eq!((error.code, error.message.contains("7777")), (code, refused), "{error}");
    }
    let text = std::fs::read_to_string(log.path()).unwrap();
    // What an engine says of a failure may quote the input too.
    assert!(!text.contains("7777") && !text.contains("scripted failure of an input"), "{text}");
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| line.contains("a request failed") && line.contains("error=\"run\""))
        .collect();
    assert!(lines.len() >= 2, "{text}");
    lines.dedup();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn a_panic_of_the_engine_fails_its_request_only() {
    let agent = Agent::new(FakeScript { panic_every: 2, ..FakeScript::default() }, "warmup = false").await;
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        outcomes.push(agent.infer(1.0).await.map(|_| ()).map_err(|error| error.code));
    }
    assert_eq!(outcomes, [Ok(()), Err(ErrorCode::Internal), Ok(()), Err(ErrorCode::Internal)]);
    assert_eq!(agent.state(), (State::Ready, String::new()));
    agent.assert_idle();
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_is_queued() {
    let agent = Agent::new(FakeScript::default(), "max_batch_size = 2").await;
    let check = async |change: fn(&mut Request), code, text: &str| {
        let mut request = request(1.0);
        change(&mut request);
        let error = agent.send(request).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(text), "{error:?} is without {text:?}");
    };
    use ErrorCode::{InvalidArgument, NotFound, UnknownModel};
    check(|it| it.model = "../m".to_owned(), UnknownModel, "Request for unknown model: '../m' is not found")
        .await;
    check(|it| it.version = Some(2), NotFound, "version 2 is not found").await;
    check(|it| it.inputs.clear(), InvalidArgument, "missing 'input'").await;
    check(|it| it.inputs = rows(&[0.0; 3]).inputs, InvalidArgument, "<= 2").await;
    check(|it| it.outputs = vec!["y".to_owned()], InvalidArgument, "'output'").await;
    let all = agent.stats().all;
    assert_eq!((all.refused, all.failures.other, all.success.count), (3, 3, 0));
    agent.assert_idle();
}

#[tokio::test]
async fn a_refusal_names_its_rule_and_a_request_without_egress_leaves_no_number() {
    let policy = "version = 1\n\
        [[rules]]\nid = \"open\"\neffect = \"allow\"\ntenants = [\"local\"]\ndata_classes = [\"public\"]\negress = \"aggregate\"\n\
        [[rules]]\nid = \"closed\"\neffect = \"allow\"\ntenants = [\"local\"]\ndata_classes = [\"secret\"]\n";
    let agent = Agent::with_policy(FakeScript::default(), "", Policy::parse(policy).unwrap()).await;
    let class = |class: &str| {
        let mut request = request(1.0);
        request.labels.data_class = class.to_owned();
        request
    };
    agent.send(class("public")).await.unwrap().single().await.unwrap();
    for _ in 0..2 {
        agent.send(class("secret")).await.unwrap().single().await.unwrap();
    }
    let error = agent.send(class("personal")).await.unwrap_err();
    assert_eq!((error.code, error.refusal.unwrap().rule.as_str()), (ErrorCode::Refused, "default-deny"));
    assert_eq!(agent.serve.refusals(), [("default-deny".to_owned(), 1)]);
    let stats = agent.stats();
    assert_eq!((stats.all.success.count, stats.exportable.success.count), (3, 1));
    assert_eq!((stats.all.execution_count, stats.exportable.execution_count), (3, 1));
    agent.assert_idle();
}
