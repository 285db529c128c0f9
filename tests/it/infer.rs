//! A request and its answer, in JSON and with the binary extension both ways.

use anyhow::{Result, ensure};
use harness::http::{self, Request};
use harness::{infer, load};
use serde_json::json;

use crate::{agent_with_add, assert_serves};

const VALUES: [f32; 4] = [0.0, -1.5, 3.25, 1e6];
const ANSWER: [f32; 4] = [1.0, -0.5, 4.25, 1_000_001.0];

#[test]
fn json_and_binary_give_the_same_answer() -> Result<()> {
    let agent = agent_with_add()?;
    let bytes = infer::f32_bytes(&VALUES);
    let check = |name: &str, request: &Request, binary: bool| -> Result<()> {
        let response = agent.send_ok(request)?;
        ensure!(infer::first_output(&response)? == ANSWER, "{name}: {response}");
        let (head, _) = infer::split(&response)?;
        ensure!(head["model_name"] == "add" && head["model_version"] == "1", "{name}: {head}");
        ensure!(
            head["outputs"][0]["name"] == "y" && head["outputs"][0]["shape"] == json!([1, 4]),
            "{name}: {head}"
        );
        let kind = response.header("content-type").unwrap_or_default();
        ensure!(
            kind.starts_with(if binary { "application/octet-stream" } else { "application/json" }),
            "{name}: {kind}"
        );
        ensure!(
            response.header("inference-header-content-length").is_some() == binary,
            "{name}: header length"
        );
        Ok(())
    };
    let input = |parameters: serde_json::Value| json!({ "name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": parameters });
    let sized = input(json!({ "binary_data_size": 16 }));
    check("JSON in, JSON out", &infer::json("add", "x", &[1, 4], &VALUES), false)?;
    check("binary in, binary out", &infer::binary("add", "x", &[1, 4], &bytes), true)?;
    check("binary in, JSON out", &infer::binary_parts("add", &json!({ "inputs": [&sized] }), &bytes), false)?;
    let wanted = json!({ "inputs": [{ "name": "x", "shape": [1, 4], "datatype": "FP32", "data": [[0.0, -1.5, 3.25, 1e6]] }],
                         "outputs": [{ "name": "y", "parameters": { "binary_data": true } }] });
    check("JSON in, binary out", &Request::post("/v2/models/add/infer", wanted.to_string()), true)?;
    check("with its version", &Request::post("/v2/models/add/versions/1/infer", wanted.to_string()), true)
}

#[test]
fn the_clients_id_is_echoed() -> Result<()> {
    let agent = agent_with_add()?;
    let body = json!({ "id": "order-66", "inputs": [{ "name": "x", "shape": [1, 4], "datatype": "FP32", "data": VALUES }] });
    let response = agent.send_ok(&Request::post("/v2/models/add/infer", body.to_string()))?;
    ensure!(response.json()?["id"] == "order-66", "{response}");
    Ok(())
}

#[test]
fn replies_under_load_are_all_counted() -> Result<()> {
    let agent = agent_with_add()?;
    let request = infer::binary("add", "x", &[1, 4], &infer::f32_bytes(&VALUES));
    let outcome = load::run(agent.http, &request, 8, load::Until::Requests(400))?;
    ensure!(outcome.replies + outcome.refused == 400, "{outcome:?}");
    let stats = http::get(agent.http, "/v2/models/add/stats")?.json()?;
    let success = &stats["model_stats"][0]["inference_stats"]["success"]["count"];
    ensure!(success.as_u64() == Some(outcome.replies), "{stats} after {} replies", outcome.replies);
    let metric = agent.metric("nv_inference_request_success{model=\"add\",version=\"1\"}")?;
    let counted = outcome.replies as f64;
    ensure!(metric == Some(counted), "{metric:?} after {counted}");
    assert_serves(&agent)
}

#[test]
fn health_metadata_and_configuration() -> Result<()> {
    let agent = agent_with_add()?;
    for path in
        ["/v2/health/live", "/v2/health/ready", "/v2/models/add/ready", "/v2/models/add/versions/1/ready"]
    {
        let response = http::get(agent.http, path)?;
        ensure!(response.status == 200, "{path}: {response}");
    }
    let server = http::get(agent.http, "/v2")?.json()?;
    ensure!(
        server["name"].is_string() && server["extensions"].as_array().is_some_and(|list| !list.is_empty()),
        "{server}"
    );
    let model = http::get(agent.http, "/v2/models/add")?.json()?;
    ensure!(model["inputs"] == json!([{ "name": "x", "datatype": "FP32", "shape": [-1, 4] }]), "{model}");
    let config = http::get(agent.http, "/v2/models/add/config")?.json()?;
    ensure!(config["name"] == "add" && config["max_batch_size"] == 8, "{config}");
    let response = http::get(agent.http, "/v2/models/none/ready")?;
    ensure!(response.status == 400, "an unknown model is ready: {response}");
    Ok(())
}

/// Two parts of the agent write the page.
#[test]
fn every_metric_is_described_once() -> Result<()> {
    let agent = agent_with_add()?;
    let text = harness::http::get(agent.metrics, "/metrics")?.text();
    let mut families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    families.sort_unstable();
    ensure!(!families.is_empty() && families.windows(2).all(|two| two[0] != two[1]), "{families:?}");
    Ok(())
}
