//! Repositories as Triton's users have them: what works unchanged, and what is said where something does not.

use anyhow::{Context, Result, ensure};
use harness::http::{self, Request};
use harness::{Agent, Setup, infer, onnx};
use serde_json::json;

const RESHAPED: &str = r#"
    name: "reshaped"
    platform: "onnxruntime_onnx"
    max_batch_size: 8
    input [ { name: "x" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape: { shape: [ 4 ] } } ]
    output [ {
      name: "y" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape: { shape: [ 4 ] } label_filename: "labels.txt"
    } ]
    dynamic_batching {
      preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100
      priority_levels: 3 default_priority_level: 2
      priority_queue_policy { key: 3 value: { max_queue_size: 5 } }
    }
    instance_group [ { count: 2 kind: KIND_CPU } ]
    model_warmup [ {
      name: "zeros" batch_size: 1
      inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 2, 2 ] zero_data: true } }
    } ]
    parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"#;

/// Folders that serve, with what a client of theirs sees.
const SERVE: [(&str, &str); 5] = [
    ("bare", ""),
    ("reshaped", RESHAPED),
    ("named", "name: \"named\" backend: \"onnxruntime\" max_batch_size: 8"),
    ("specific", "version_policy { specific { versions: [ 1, 3 ] } }"),
    ("latest", "version_policy { latest { num_versions: 2 } }"),
];

/// Folders that cannot serve as they are, with the words that say why.
const FAIL: [(&str, &str, &[&str]); 8] = [
    ("typing-error", "max_batch_size: 8\nmax_queue_size: 4\n", &["config.pbtxt", "max_queue_size", "2"]),
    ("wrong-type", "max_batch_size: \"eight\"", &["config.pbtxt", "integer", "eight"]),
    ("other-name", "name: \"resnet\"", &["resnet", "other-name"]),
    ("other-backend", "backend: \"python\"", &["python", "onnxruntime"]),
    ("ensemble", "platform: \"ensemble\"", &["ensemble"]),
    ("ragged", "input [ { name: \"x\" allow_ragged_batch: true } ]", &["allow_ragged_batch"]),
    ("other-dims", "input [ { name: \"x\" data_type: TYPE_FP32 dims: [ 5 ] } ]", &["x", "5"]),
    ("other-input", "input [ { name: \"z\" data_type: TYPE_FP32 dims: [ 4 ] } ]", &["z"]),
];

/// Models that add the number of their version.
fn agent() -> Result<Agent> {
    let mut setup = Setup::new()?.model_file("reshaped/labels.txt", "north\neast\nsouth\nwest\n")?;
    let fail = FAIL.iter().map(|(model, config, _)| (model, config));
    for (model, config) in SERVE.iter().map(|(model, config)| (model, config)).chain(fail) {
        if !config.is_empty() {
            setup = setup.model_file(&format!("{model}/config.pbtxt"), config)?;
        }
        let versions: &[f32] = if ["specific", "latest"].contains(model) { &[1.0, 2.0, 3.0] } else { &[1.0] };
        for version in versions {
            setup = setup.model_file(&format!("{model}/{version}/model.onnx"), onnx::add(*version, 4))?;
        }
    }
    setup.start()
}

#[test]
fn what_works_there_works_here() -> Result<()> {
    let agent = agent()?;
    let check = |path: &str, shape: &[u64], expected: Option<f32>| -> Result<()> {
        let request = infer::json("x", "x", shape, &[0.0; 4]);
        let response = agent.send(&Request::post(&format!("/v2/models/{path}/infer"), request.body()))?;
        let Some(expected) = expected else {
            ensure!((400..500).contains(&response.status), "{path} {shape:?}: {response}");
            return Ok(());
        };
        ensure!(response.status == 200, "{path} {shape:?}: {response}");
        ensure!(infer::first_output(&response)? == [expected; 4], "{path}: {response}");
        ensure!(response.json()?["outputs"][0]["shape"] == json!(shape), "{path}: {response}");
        Ok(())
    };
    check("bare", &[1, 4], Some(1.0))?;
    check("named", &[1, 4], Some(1.0))?;
    check("reshaped", &[1, 2, 2], Some(1.0))?;
    check("reshaped", &[1, 4], None)?;
    check("specific", &[1, 4], Some(3.0))?;
    check("specific/versions/1", &[1, 4], Some(1.0))?;
    check("specific/versions/2", &[1, 4], None)?;
    check("latest", &[1, 4], Some(3.0))?;
    check("latest/versions/2", &[1, 4], Some(2.0))?;
    check("latest/versions/1", &[1, 4], None)?;

    // What Triton completes is completed to the same.
    let config = |model: &str| http::get(agent.http, &format!("/v2/models/{model}/config"))?.json();
    ensure!(config("bare")?["max_batch_size"] == 4, "{}", config("bare")?);
    let reshaped = config("reshaped")?;
    ensure!(reshaped["max_batch_size"] == 8 && reshaped["input"][0]["dims"] == json!([2, 2]), "{reshaped}");
    let group = &reshaped["instance_group"][0];
    ensure!(group["count"] == 2 && group["kind"] == "KIND_CPU", "{group}");
    let batching = &reshaped["dynamic_batching"];
    ensure!(batching["preferred_batch_size"] == json!([4, 8]), "{batching}");
    ensure!(batching["priority_levels"].to_string().trim_matches('"') == "3", "{batching}");
    ensure!(batching["default_priority_level"].to_string().trim_matches('"') == "2", "{batching}");
    ensure!(batching["priority_queue_policy"]["3"]["max_queue_size"] == 5, "{batching}");
    let metadata = http::get(agent.http, "/v2/models/reshaped")?.json()?;
    ensure!(metadata["inputs"][0]["shape"] == json!([-1, 2, 2]), "{metadata}");

    let classes = json!({
        "inputs": [{ "name": "x", "shape": [1, 2, 2], "datatype": "FP32", "data": [0.0, 1.0, 9.0, 2.0] }],
        "outputs": [{ "name": "y", "parameters": { "classification": 2 } }],
    });
    let response = agent.send_ok(&Request::post("/v2/models/reshaped/infer", classes.to_string()))?;
    ensure!(response.text().contains("south") && !response.text().contains("north"), "{response}");
    Ok(())
}

#[test]
fn what_does_not_is_named_everywhere_and_harms_nobody() -> Result<()> {
    let agent = agent()?;
    let listed = agent.mast(&["models"])?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for (model, _, words) in FAIL {
        let index = agent.index(model)?;
        let row = index.first().with_context(|| format!("{model} is not in the index"))?;
        ensure!(row["state"] == "UNAVAILABLE", "{row}");
        let reason = row["reason"].as_str().unwrap_or_default();
        let answer = agent.load(model)?;
        ensure!(answer.status >= 400, "{model} loads: {answer}");
        let error = answer.error()?;
        for said in [reason, &listed, &agent.log(), &error] {
            let missing = words.iter().find(|word| !said.contains(*word));
            ensure!(missing.is_none(), "{model}: {missing:?} is not in: {said}");
        }
    }
    for (model, _) in SERVE {
        let ready = http::get(agent.http, &format!("/v2/models/{model}/ready"))?;
        ensure!(ready.status == 200, "{model}: {ready}");
    }
    Ok(())
}

/// Loads, but not to the letter: a warning where its owner looks.
#[test]
fn what_is_not_honoured_is_a_warning() -> Result<()> {
    let check = |config: &str, words: &str| -> Result<()> {
        let setup = Setup::new()?.model("add", &onnx::add_one(4), "")?;
        let agent = setup.model_file("add/config.pbtxt", config)?.start()?;
        let index = agent.index("add")?;
        let row = index.first().context("not in the index")?;
        ensure!(row["state"] == "READY", "{row}");
        ensure!(row["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{words}: {row}");
        ensure!(agent.log().contains(words), "{words} is not in the log");
        crate::assert_serves(&agent)
    };
    check("max_batch_size: 8 optimization { graph { level: 1 } }", "optimization.graph")?;
    check("max_batch_size: 8 parameters { key: \"colour\" value: { string_value: \"red\" } }", "colour")?;
    check("dynamic_batching { }", "max_batch_size was completed to 4")
}
