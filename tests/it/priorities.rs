//! Who waits how long: levels, deadlines, and clients that do not wait any more.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::http::{Connection, Request};
use harness::{Agent, Setup, onnx};
use serde_json::{Value, json};

/// One request takes some tenths of a second.
const STEPS: usize = 300;
const LIMIT: Duration = Duration::from_secs(60);

fn agent(toml: &str) -> Result<Agent> {
    Setup::new()?.model("slow", &onnx::slow(STEPS), &format!("threads = 1\n{toml}"))?.start()
}

fn request(parameters: &Value) -> Request {
    let input = json!({ "name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0.0] });
    let body = json!({ "inputs": [input], "parameters": parameters });
    Request::post("/v2/models/slow/infer", body.to_string())
}

fn wait_for_pending(agent: &Agent, count: u64) -> Result<()> {
    agent.wait_for_status(&format!("with {count} pending"), |status| {
        status["models"][0]["pending"] == count
    })?;
    Ok(())
}

/// A request that is under way or waits.
fn sent(agent: &Agent, parameters: &Value, count: u64) -> Result<Connection> {
    let mut connection = Connection::tcp(agent.http)?;
    connection.write(&request(parameters).bytes())?;
    wait_for_pending(agent, count)?;
    Ok(connection)
}

#[test]
fn a_higher_level_overtakes() -> Result<()> {
    let agent = agent("[priority]\nlevels = 3\ndefault_level = 2\n")?;
    let (done, order) = mpsc::sync_channel(4);
    let sends = [("running", 2), ("low", 3), ("default", 0), ("high", 1)];
    let mut pending = 0;
    for (name, priority) in sends {
        pending += 1;
        let mut connection = sent(&agent, &json!({ "priority": priority }), pending)?;
        let done = done.clone();
        std::thread::spawn(move || {
            let status = connection.read().map(|response| response.status);
            done.send((name, status.unwrap_or_default()))
        });
    }
    for expected in ["running", "high", "default", "low"] {
        let got = order.recv_timeout(LIMIT)?;
        ensure!(got == (expected, 200), "{got:?} instead of {expected}");
    }
    Ok(())
}

/// The model's own time is known: who cannot be served in time is not kept waiting to hear it.
#[test]
fn what_cannot_make_its_deadline_is_refused_at_once() -> Result<()> {
    let agent = agent("")?;
    let begun = Instant::now();
    agent.send_ok(&request(&json!({})))?;
    let alone = begun.elapsed();
    let mut running = sent(&agent, &json!({}), 1)?;
    let mut waiting = sent(&agent, &json!({}), 2)?;
    let begun = Instant::now();
    let mut connection = Connection::tcp(agent.http)?;
    let refusal = connection.send(&request(&json!({ "timeout": 20_000 })))?;
    let refused = begun.elapsed();
    ensure!(refusal.status == 503 && !refusal.error()?.is_empty(), "{refusal}");
    ensure!(refused < alone / 2, "refused after {refused:?}, where one request takes {alone:?}");
    // Who has the time is served.
    let served = connection.send(&request(&json!({ "timeout": 60_000_000 })))?;
    ensure!(served.status == 200, "{served}");
    for connection in [&mut running, &mut waiting] {
        ensure!(connection.read()?.status == 200, "what was accepted before");
    }
    Ok(())
}

/// A level may be full where there is room in another.
#[test]
fn each_level_has_its_own_room() -> Result<()> {
    let agent =
        agent("[priority]\nlevels = 2\ndefault_level = 2\nqueues = { 2 = { max_queue_size = 1 } }\n")?;
    let mut accepted = vec![sent(&agent, &json!({}), 1)?, sent(&agent, &json!({}), 2)?];
    let refusal = Connection::tcp(agent.http)?.send(&request(&json!({ "priority": 2 })))?;
    ensure!(refusal.status == 503 && refusal.header("retry-after").is_some(), "{refusal}");
    accepted.push(sent(&agent, &json!({ "priority": 1 }), 3)?);
    for mut connection in accepted {
        let answer = connection.read()?;
        ensure!(answer.status == 200, "{answer}");
    }
    Ok(())
}

#[test]
fn a_client_that_is_gone_frees_its_place() -> Result<()> {
    let agent = agent("queue_limit = 2\n")?;
    let mut running = sent(&agent, &json!({}), 1)?;
    let gone = [sent(&agent, &json!({}), 2)?, sent(&agent, &json!({}), 3)?];
    let mut connection = Connection::tcp(agent.http)?;
    ensure!(connection.send(&request(&json!({})))?.status == 503, "the queue is not full");
    drop(gone);
    // Within the batch that runs, or right after it.
    let begun = Instant::now();
    agent.wait_for_status("without those who left", |status| {
        status["models"][0]["pending"].as_u64().is_some_and(|pending| pending <= 1)
    })?;
    let freed = begun.elapsed();
    let answer = connection.send(&request(&json!({})))?;
    ensure!(answer.status == 200, "{answer}");
    ensure!(running.read()?.status == 200, "what was accepted before");
    let status = agent.status()?;
    ensure!(status["models"][0]["success"] == 2, "somebody computed for nobody: {status}");
    ensure!(freed < LIMIT, "{freed:?}");
    Ok(())
}
