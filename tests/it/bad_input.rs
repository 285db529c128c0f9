//! What clients get wrong, over the real socket: each a clear error, and the daemon serves on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::http::{Connection, Request, Response};
use harness::infer::{binary, binary_parts, f32_bytes, json as json_body};
use harness::{Agent, Setup, infer, onnx};
use serde_json::{Value, json};

use crate::{agent_with_add, assert_serves, setup_with_add};

const PATH: &str = "/v2/models/add/infer";

/// `name`: the answer to `request` has this status and an error that says these words.
fn check(agent: &Agent, name: &str, request: &Request, status: u16, words: &[&str]) -> Result<()> {
    let response = agent.send(request).with_context(|| name.to_owned())?;
    is_error(name, &response, status, words)?;
    assert_serves(agent).with_context(|| format!("after {name}"))
}

fn is_error(name: &str, response: &Response, status: u16, words: &[&str]) -> Result<()> {
    ensure!(response.status == status, "{name}: expected {status}, got {response}");
    let error = response.error().with_context(|| name.to_owned())?;
    for word in words {
        ensure!(error.contains(word), "{name}: \"{error}\" does not say \"{word}\"");
    }
    Ok(())
}

fn input(name: &str, shape: &Value, datatype: &str, data: &Value) -> Request {
    let body = json!({ "inputs": [{ "name": name, "shape": shape, "datatype": datatype, "data": data }] });
    Request::post(PATH, body.to_string())
}

#[test]
fn malformed_json() -> Result<()> {
    let agent = agent_with_add()?;
    let post = |body: &str| Request::post(PATH, body);
    check(&agent, "cut off", &post("{\"inputs\":[{\"name\":\"x\""), 400, &["JSON"])?;
    check(&agent, "not JSON", &post("x=1"), 400, &["JSON"])?;
    check(&agent, "empty", &post(""), 400, &[])?;
    check(&agent, "a list", &post("[1]"), 400, &[])?;
    check(&agent, "no inputs", &post("{}"), 400, &["inputs"])?;
    check(&agent, "not UTF-8", &Request::post(PATH, b"{\"id\":\"\xff\xfe\"}".to_vec()), 400, &[])?;
    let deep = format!(
        "{{\"inputs\":[{{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":{}",
        "[".repeat(100_000)
    );
    check(&agent, "100,000 brackets", &post(&deep), 400, &[])
}

#[test]
fn inputs_that_do_not_fit_the_model() -> Result<()> {
    let agent = agent_with_add()?;
    let four = json!([1.0, 2.0, 3.0, 4.0]);
    check(
        &agent,
        "wrong dtype",
        &input("x", &json!([1, 4]), "INT32", &json!([1, 2, 3, 4])),
        400,
        &["x", "FP32"],
    )?;
    check(&agent, "no dtype", &input("x", &json!([1, 4]), "FLOAT", &four), 400, &["FLOAT"])?;
    check(&agent, "wrong rank", &input("x", &json!([4]), "FP32", &four), 400, &["x"])?;
    check(&agent, "wrong size", &input("x", &json!([1, 3]), "FP32", &json!([1, 2, 3])), 400, &["x"])?;
    check(&agent, "wrong name", &input("z", &json!([1, 4]), "FP32", &four), 400, &["z"])?;
    check(&agent, "too few", &input("x", &json!([1, 4]), "FP32", &json!([1, 2, 3])), 400, &["x", "fewer"])?;
    check(
        &agent,
        "too many",
        &input("x", &json!([1, 4]), "FP32", &json!([1, 2, 3, 4, 5])),
        400,
        &["x", "more"],
    )?;
    check(&agent, "negative size", &input("x", &json!([1, -4]), "FP32", &four), 400, &["x"])?;
    check(&agent, "overflowing size", &input("x", &json!([i64::MAX, i64::MAX]), "FP32", &four), 400, &["x"])?;
    check(
        &agent,
        "a text for a number",
        &input("x", &json!([1, 4]), "FP32", &json!(["a", 2, 3, 4])),
        400,
        &["x"],
    )?;
    check(&agent, "over the batch", &input("x", &json!([9, 4]), "FP32", &json!(vec![0; 36])), 400, &["8"])?;
    let twice = json!({ "name": "x", "shape": [1, 4], "datatype": "FP32", "data": four });
    let body = json!({ "inputs": [&twice, &twice] }).to_string();
    check(&agent, "the same input twice", &Request::post(PATH, body), 400, &["x"])?;
    let body = json!({ "inputs": [&twice], "outputs": [{ "name": "q" }] }).to_string();
    check(&agent, "unknown output", &Request::post(PATH, body), 400, &["q"])
}

#[test]
fn binary_bytes_that_do_not_fit_the_head() -> Result<()> {
    let agent = agent_with_add()?;
    let bytes = f32_bytes(&[1.0, 2.0, 3.0, 4.0]);
    let sized = |size: u64| json!({ "inputs": [{ "name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": { "binary_data_size": size } }] });
    check(&agent, "missing bytes", &binary_parts("add", &sized(16), &bytes[..12]), 400, &["x"])?;
    check(
        &agent,
        "extra bytes",
        &binary_parts("add", &sized(16), &[&bytes[..], b"abcd"].concat()),
        400,
        &["additional"],
    )?;
    check(
        &agent,
        "a size that is not the shape's",
        &binary_parts("add", &sized(12), &bytes[..12]),
        400,
        &["x", "16"],
    )?;
    check(&agent, "a huge size", &binary_parts("add", &sized(u64::MAX >> 1), &bytes), 400, &["x"])?;
    let with_length = |length: &str| {
        Request::post(PATH, sized(16).to_string()).with("Inference-Header-Content-Length", length)
    };
    check(&agent, "header length behind the body", &with_length("1000000"), 400, &[])?;
    check(&agent, "header length negative", &with_length("-1"), 400, &[])?;
    check(&agent, "header length no number", &with_length("many"), 400, &[])?;
    check(&agent, "header length in the middle of the JSON", &with_length("7"), 400, &[])
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() -> Result<()> {
    let agent = setup_with_add()?.config("[listen]\nbody_limit_bytes = 4096").start()?;
    let mut connection = Connection::tcp(agent.http)?;
    // Only the head is sent: an answer now is one that did not wait for the body.
    connection.write(&Request::post_claiming(PATH, 1 << 40, "").bytes())?;
    is_error("a claim over the limit", &connection.read()?, 413, &["4096"])?;
    assert_serves(&agent)?;
    let mut connection = Connection::tcp(agent.http)?;
    connection.write(
        format!("POST {PATH} HTTP/1.1\r\nHost: mast\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes(),
    )?;
    let chunk = format!("400\r\n{}\r\n", " ".repeat(0x400));
    // The daemon may answer and close while chunks are still being written.
    let written = (0..64).try_for_each(|_| connection.write(chunk.as_bytes()));
    match connection.read() {
        Ok(response) => is_error("chunks over the limit", &response, 413, &["4096"])?,
        Err(error) => ensure!(written.is_err(), "no answer to chunks over the limit: {error:#}"),
    }
    assert_serves(&agent)
}

#[test]
fn a_slow_client_is_cut_off_in_time() -> Result<()> {
    let limits = "[listen]\nheader_timeout_ms = 400\nbody_timeout_ms = 400";
    let agent = setup_with_add()?.config(limits).start()?;
    let started = Instant::now();
    let mut body = Connection::tcp(agent.http)?;
    body.write(&Request::post_claiming(PATH, 1000, "{").bytes())?;
    let mut head = Connection::tcp(agent.http)?;
    head.write(b"POST /v2/models/add/infer HTT")?;
    assert_serves(&agent)?; // beside the slow ones, which are still there
    is_error("a body that does not come", &body.read()?, 408, &[])?;
    // A head that does not come may be answered 408 or just closed.
    if let Ok(response) = head.read() {
        ensure!(response.status == 408, "a head that does not come: {response}");
    }
    ensure!(started.elapsed() < Duration::from_secs(10), "cut off after {:?}", started.elapsed());
    assert_serves(&agent)
}

/// The end of a client's stream means that it went away: that is how a place is freed before the next batch. So a half-closed
/// client may get its answer or none, never a wrong one, and nothing of it stays.
#[test]
fn a_half_closed_client_is_gone_and_hurts_nobody() -> Result<()> {
    let agent = agent_with_add()?;
    let whole = json_body("add", "x", &[1, 4], &[0.0; 4]);
    let half = Request::post_claiming(PATH, 1000, "{\"inputs\":");
    for _ in 0..20 {
        let mut honest = Connection::tcp(agent.http)?;
        honest.write(&whole.bytes())?;
        honest.finish_writing()?;
        if let Ok(response) = honest.read() {
            ensure!(response.status == 200 && infer::first_output(&response)? == [1.0; 4], "{response}");
        }
        let mut liar = Connection::tcp(agent.http)?;
        liar.write(&half.bytes())?;
        liar.finish_writing()?;
        if let Ok(response) = liar.read() {
            ensure!((400..500).contains(&response.status), "half a body: {response}");
        }
    }
    agent.wait_for_status("idle", |status| {
        status["models"][0]["pending"] == 0 && status["buffered_bytes"] == 0
    })?;
    assert_serves(&agent)
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() -> Result<()> {
    let agent = setup_with_add()?.model("slow", &onnx::slow(400), "")?.start()?;
    for _ in 0..8 {
        let mut connection = Connection::tcp(agent.http)?;
        connection.write(&json_body("slow", "x", &[1, 1], &[0.0]).bytes())?;
    }
    agent.wait_for_status("idle", |status| {
        let pending = |model: &Value| model["pending"].as_u64().unwrap_or(1);
        let models = status["models"].as_array();
        models.is_some_and(|models| models.iter().map(pending).sum::<u64>() == 0)
            && status["buffered_bytes"] == 0
    })?;
    assert_serves(&agent)
}

#[test]
fn unknown_models_paths_and_methods() -> Result<()> {
    let agent = agent_with_add()?;
    let body = || json_body("add", "x", &[1, 4], &[0.0; 4]);
    check(&agent, "unknown model", &binary("none", "x", &[1, 4], &[0; 16]), 400, &["none"])?;
    check(&agent, "unknown version", &Request::post("/v2/models/add/versions/9/infer", "{}"), 404, &["9"])?;
    check(&agent, "unknown path", &Request::get("/v3/models"), 404, &[])?;
    check(&agent, "wrong method", &Request::get(PATH), 405, &[])?;
    check(
        &agent,
        "a path out of the repository",
        &Request::get("/v2/models/..%2f..%2fetc/config"),
        400,
        &[],
    )?;
    check(&agent, "unknown encoding", &body().with("Content-Encoding", "br"), 501, &[])?;
    check(&agent, "not gzip", &body().with("Content-Encoding", "gzip"), 400, &[])
}

#[test]
fn a_deadline_that_passes_is_an_error_in_time() -> Result<()> {
    let agent = Setup::new()?
        .model("add", &onnx::add_one(4), "max_batch_size = 8\n")?
        .model("slow", &onnx::slow(400), "")?
        .start()?;
    let slow = json_body("slow", "x", &[1, 1], &[0.0]);
    let mut first = Connection::tcp(agent.http)?;
    first.write(&slow.bytes())?;
    agent.wait_for_status("busy", |status| {
        status["models"].as_array().is_some_and(|models| models.iter().any(|model| model["pending"] == 1))
    })?;
    let body = json!({ "parameters": { "timeout": 20_000 }, "inputs": [{ "name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0] }] });
    let response = agent.send(&Request::post("/v2/models/slow/infer", body.to_string()))?;
    is_error("20 ms behind a long one", &response, 503, &[])?;
    ensure!(first.read()?.status == 200, "the long one was hurt");
    assert_serves(&agent)
}
