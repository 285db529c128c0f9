//! The log: no word of a client's in it, and no flood.

use anyhow::{Result, ensure};
use harness::http::Request;
use harness::{Agent, files};
use serde_json::json;

use crate::{agent_with_add, assert_serves, setup_with_add};

/// Values that a client sends and that must be nowhere else.
const ID: &str = "id-of-the-client-5309";
const TENANT: &str = "tenant-word-8675";
const CLASS: &str = "class-word-4421";
const PAYLOAD: &str = "payload-word-1977";

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
    ]
}

fn assert_silent(agent: &Agent, where_: &str, text: &str) -> Result<()> {
    for word in [ID, TENANT, CLASS, PAYLOAD] {
        ensure!(!text.contains(word), "{word} is in {where_}:\n{}", agent.log());
    }
    Ok(())
}

#[test]
fn nothing_of_a_client_is_logged_or_kept() -> Result<()> {
    let mut agent = setup_with_add()?.config("[log]\nlevel = \"debug\"").start()?;
    for request in noisy_requests() {
        agent.send(&request)?;
    }
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
