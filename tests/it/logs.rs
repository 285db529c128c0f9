//! The log: no word of a client's in it, no flood, the id of the reply, and a level that can be changed.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::http::Request;
use harness::load::grpc;
use harness::{Agent, files};
use prost::Message;
use serde_json::json;
use triton::ModelInferRequest;
use triton::model_infer_request::InferInputTensor;

use crate::{agent_with_add, assert_serves, setup_with_add};

/// Values that a client sends and that must be nowhere else.
const ID: &str = "id-of-the-client-5309";
const TENANT: &str = "tenant-word-8675";
const CLASS: &str = "class-word-4421";
const PAYLOAD: &str = "payload-word-1977";
const HEADER: &str = "header-word-6022";
const PARENT: &str = "00-5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a-5a5a5a5a5a5a5a5a-01";
/// Four characters of it are a float32 of the payload, as raw bytes.
const RAW: &str = "RAWpayload-11235";

fn noisy_requests() -> Vec<Request> {
    let path = "/v2/models/add/infer";
    let input = |data: serde_json::Value| {
        json!({ "id": ID, "inputs": [{ "name": "x", "shape": [1, 4], "datatype": "FP32", "data": data }] })
            .to_string()
    };
    let labelled = |request: Request| request.with("Mast-Tenant", TENANT).with("Mast-Data-Class", CLASS);
    vec![
        Request::post(path, input(json!([0, 0, 0, 0]))),
        labelled(Request::post(path, input(json!([0, 0, 0, 0])))),
        Request::post(path, input(json!([PAYLOAD, 0, 0, 0]))),
        Request::post(path, format!("{{\"id\":\"{ID}\",\"inputs\":{PAYLOAD}")),
        Request::post(&format!("/v2/models/{PAYLOAD}/infer"), input(json!([0, 0, 0, 0]))),
        Request::post(path, PAYLOAD).with("Mast-Jurisdiction", CLASS),
        Request::get(&format!("/{PAYLOAD}")),
        harness::infer::binary("add", "x", &[1, 4], RAW.as_bytes()),
        Request::post(path, input(json!([0, 0, 0, 0])))
            .with("X-Request-Id", HEADER)
            .with("traceparent", PARENT),
        Request::post(path, input(json!([0, 0, 0, 0]))).with("Authorization", &format!("Bearer {HEADER}")),
        noisy_order(),
        Request::post("/v2/repository/index", format!("{{\"{PAYLOAD}\":")),
        Request::get(&format!("/v2/models/add?{PAYLOAD}")),
    ]
}

/// Administration: refused on a port, and done, as far as there is such a model, over the control socket.
fn noisy_order() -> Request {
    Request::post(&format!("/v2/repository/models/{PAYLOAD}/load"), "{}")
}

/// The same over gRPC: what fits the model, and what does not.
fn noisy_messages() -> Vec<Bytes> {
    let message = |model: &str, input: &str| ModelInferRequest {
        model_name: model.to_owned(),
        id: ID.to_owned(),
        inputs: vec![InferInputTensor {
            name: input.to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 4],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![RAW.as_bytes().into()],
        ..ModelInferRequest::default()
    };
    let framed = |message: ModelInferRequest| {
        let body = message.encode_to_vec();
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[0], &length[..], &body].concat().into()
    };
    [message("add", "x"), message("add", PAYLOAD), message(PAYLOAD, "x")].map(framed).into()
}

fn assert_silent(agent: &Agent, where_: &str, text: &str) -> Result<()> {
    for word in [ID, TENANT, CLASS, PAYLOAD, HEADER, PARENT, &PARENT[3..35], RAW, &RAW[..4]] {
        ensure!(!text.contains(word), "{word} is in {where_}:\n{}", agent.log());
    }
    Ok(())
}

#[test]
fn nothing_of_a_client_is_logged_or_kept() -> Result<()> {
    let mut agent = setup_with_add()?.config("[log]\nlevel = \"trace\"").start()?;
    for request in noisy_requests() {
        agent.send(&request)?;
    }
    ensure!(agent.control(&noisy_order())?.status == 400, "{}", agent.log());
    let answered = noisy_messages().into_iter().map(|message| grpc::send(agent.grpc, &message).is_ok());
    ensure!(answered.collect::<Vec<_>>() == [true, false, false], "{}", agent.log());
    assert_serves(&agent)?;
    let metrics = harness::http::get(agent.metrics, "/metrics")?.text();
    assert_silent(&agent, "the metrics", &metrics)?;
    let status = agent.status()?.to_string();
    assert_silent(&agent, "the status", &status)?;
    agent.terminate()?;
    ensure!(!agent.log().is_empty(), "no log at all");
    let log = agent.log();
    assert_silent(&agent, "the log", &log)?;
    for file in files::walk(agent.setup().data_dir())? {
        let bytes = std::fs::read(&file).unwrap_or_default();
        assert_silent(&agent, &file.display().to_string(), &String::from_utf8_lossy(&bytes))?;
    }
    Ok(())
}

/// One bad client in a loop (aws-greengrass-lite#959: 120 GB of log overnight).
#[test]
fn a_client_in_a_loop_does_not_flood_the_log() -> Result<()> {
    let mut agent = agent_with_add()?;
    let before = agent.log().lines().count();
    let requests = noisy_requests();
    for _ in 0..200 {
        for request in &requests {
            agent.send(request)?;
        }
    }
    agent.terminate()?;
    let lines = agent.log().lines().count() - before;
    let sample = agent.log().lines().rev().take(20).collect::<Vec<_>>().join("\n");
    ensure!(lines < 200, "{} requests wrote {lines} lines, such as:\n{sample}", 200 * requests.len());
    Ok(())
}

#[test]
fn the_id_of_a_reply_is_in_the_log() -> Result<()> {
    let agent = setup_with_add()?.config("[log]\nlevel = \"info,mast_front=debug\"").start()?;
    let good = agent.send_ok(&harness::infer::json("add", "x", &[1, 4], &[0.0; 4]))?;
    let bad = agent.send(&Request::post("/v2/models/add/infer", "{}"))?;
    for (reply, word) in [(good, "answered"), (bad, "invalid_argument")] {
        let id = reply.header("Mast-Request-Id").with_context(|| format!("no id in {reply}"))?;
        let field = format!("request={id} ");
        let log = agent.log();
        let line = log.lines().find(|line| format!("{line} ").contains(&field));
        ensure!(line.is_some_and(|line| line.contains(word)), "{field}{word} is not in:\n{log}");
    }
    Ok(())
}

#[test]
fn the_level_is_changed_without_a_restart() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    let lines = || agent.log().lines().filter(|line| line.contains("answered")).count();
    let said = |args: &[&str]| -> Result<String> {
        let output = agent.mast(args)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    assert_serves(&agent)?;
    ensure!(said(&["log"])? == "info" && lines() == 0, "{}", agent.log());
    ensure!(said(&["log", "debug"])? == "debug", "{}", agent.log());
    assert_serves(&agent)?;
    ensure!(lines() == 1, "{}", agent.log());
    ensure!(said(&["log", "info,mast_front=warn"])? == "info,mast_front=warn", "{}", agent.log());
    assert_serves(&agent)?;
    ensure!(lines() == 1, "{}", agent.log());

    let wrong = agent.mast(&["log", "loud"])?;
    ensure!(!wrong.status.success(), "{wrong:?}");
    ensure!(String::from_utf8_lossy(&wrong.stderr).contains("'loud' is none of off, error"), "{wrong:?}");
    ensure!(said(&["log"])? == "info,mast_front=warn", "a wrong level changed it");

    // In Triton's words.
    let settings = |body: &str| -> Result<serde_json::Value> {
        let reply = agent.control(&Request::post("/v2/logging", body))?;
        ensure!(reply.status == 200, "{reply}");
        reply.json()
    };
    let set = settings(r#"{"log_verbose_level":1,"log_info":true}"#)?;
    ensure!(set["log_verbose_level"] == 1 && set["log_info"] == true && set["log_file"] == "", "{set}");
    ensure!(said(&["log"])? == "debug", "{set}");
    let set = settings(r#"{"log_info":false}"#)?;
    ensure!(set["log_warning"] == true && set["log_verbose_level"] == 0, "{set}");
    ensure!(said(&["log"])? == "warn", "{set}");
    ensure!(said(&["log", "off"])? == "off", "the log cannot be turned off");
    let silent = agent.log();
    assert_serves(&agent)?;
    ensure!(agent.log() == silent && silent.contains("from=\"warn\" to=\"off\""), "{}", agent.log());
    Ok(())
}
