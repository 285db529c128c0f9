//! Models that keep state, as either file describes them.

use wire::{Sequence, SequenceId};

use super::*;

/// Sums up what a sequence sends.
async fn check(file: &str, text: &str) {
    let script = FakeScript { sums: true, ..FakeScript::default() };
    let site = Site::scripted(&[("m/1/model.onnx", "one"), (file, text)], explicit(), script);
    let summary = site.serve.load_all().await;
    assert_eq!(summary.failed, [], "{file}");
    let view = site.serve.find("m", None).unwrap();
    let names: Vec<_> = view.signature.inputs.iter().chain(&view.signature.outputs).collect();
    assert_eq!(names.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["input", "output"]);
    assert_eq!(site.serve.stats()[0].instances, 2);

    let step = |id, tensor, start, end| Request {
        sequence: Some(Sequence { id: SequenceId::Number(id), start, end }),
        ..request(tensor)
    };
    let sum = async |request| site.send(request).await.map(|part| value(&part));
    assert_eq!(sum(step(1, 1.0, true, false)).await.unwrap(), 1.0);
    assert_eq!(sum(step(2, 10.0, true, false)).await.unwrap(), 10.0);
    assert_eq!(sum(step(1, 2.0, false, false)).await.unwrap(), 3.0);
    assert_eq!(sum(step(2, 20.0, false, true)).await.unwrap(), 30.0);
    assert_eq!(sum(step(1, 3.0, false, false)).await.unwrap(), 6.0);
    let error = sum(step(2, 1.0, false, false)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument, "{file}: {error}");
    let error = sum(step(3, 1.0, true, false)).await;
    assert_eq!(error.unwrap(), 1.0);
    let error = sum(step(4, 1.0, true, false)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Unavailable, "more than two at a time: {error}");
}

#[tokio::test]
async fn sequences_are_served_from_either_file() {
    let pbtxt = r#"max_batch_size: 4
        input [ { name: "input" data_type: TYPE_FP32 dims: [ 4 ] } ]
        output [ { name: "output" data_type: TYPE_FP32 dims: [ 4 ] } ]
        instance_group [ { count: 2 kind: KIND_CPU } ]
        sequence_batching {
          max_sequence_idle_microseconds: 60000000
          oldest { max_candidate_sequences: 2 }
          state [ { input_name: "state" output_name: "next_state" data_type: TYPE_FP32 dims: [ 4 ] } ]
        }"#;
    check("m/config.pbtxt", pbtxt).await;
    let toml = r#"
        max_batch_size = 4
        instances = 2
        [sequence]
        max_idle_us = 60000000
        max_sequences = 2
        state = [{ input = "state", output = "next_state" }]"#;
    check("m/model.toml", toml).await;
}

/// 50 callers, interleaved, and another version in the middle: each has its own sums, or is told to begin again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sequences_over_a_hot_swap_are_right_or_begin_again() {
    let toml = "max_batch_size = 8\ninstances = 2\n\
        [sequence]\nmax_idle_us = 60000000\nstate = [{ input = \"state\", output = \"next_state\" }]";
    let script = FakeScript { sums: true, ..FakeScript::default() };
    let files = [("m/1/model.onnx", "one"), ("m/model.toml", toml)];
    let site = Arc::new(Site::scripted(&files, explicit(), script));
    assert_eq!(site.serve.load_all().await.failed, []);
    let half = Arc::new(tokio::sync::Barrier::new(51));
    let mut callers = tokio::task::JoinSet::new();
    for id in 1..=50_u8 {
        let (site, half) = (Arc::clone(&site), Arc::clone(&half));
        callers.spawn(async move {
            let (mut sum, mut starts, mut restarts) = (0.0, true, 0);
            for n in 1..=20_u8 {
                if n == 10 {
                    half.wait().await;
                }
                let sent = f32::from(id) + f32::from(n);
                let sequence =
                    |start| Some(Sequence { id: SequenceId::Number(id.into()), start, end: n == 20 });
                let mut got = site.send(Request { sequence: sequence(starts), ..request(sent) }).await;
                if let Err(error) = &got {
                    assert!(
                        error.code == ErrorCode::InvalidArgument && error.message.contains("begin again")
                    );
                    (sum, restarts) = (0.0, restarts + 1);
                    got = site.send(Request { sequence: sequence(true), ..request(sent) }).await;
                }
                (sum, starts) = (sum + sent, false);
                assert_eq!(value(&got.unwrap()), sum, "caller {id}, step {n}");
            }
            restarts
        });
    }
    half.wait().await;
    add_version(site.root.path(), "m", 2);
    site.serve.load("m").await.unwrap();
    let mut restarts = 0;
    while let Some(caller) = callers.join_next().await {
        let own = caller.unwrap();
        assert!(own <= 1, "began again {own} times over one swap");
        restarts += own;
    }
    println!("{restarts} of 50 began again");
}
