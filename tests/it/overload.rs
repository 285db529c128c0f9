//! More than fits: refused at once, with a time to come back, and never a crash.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::http::{Connection, Request};
use harness::infer::json as json_body;
use harness::{Setup, onnx};

#[test]
fn a_full_queue_refuses_at_once() -> Result<()> {
    let agent = Setup::new()?.model("slow", &onnx::slow(1500), "queue_limit = 2\n")?.start()?;
    let request = json_body("slow", "x", &[1, 1], &[0.0]);
    let mut waiting = Vec::new();
    let refusal = loop {
        ensure!(waiting.len() < 12, "a queue of 2 took {} requests", waiting.len());
        let mut connection = Connection::tcp(agent.http)?;
        let count = waiting.len() + 1;
        let sent = Instant::now();
        connection.write(&request.bytes())?;
        // Either it is taken, which the status shows, or it is answered at once.
        let mut taken = false;
        while !taken && sent.elapsed() < Duration::from_secs(5) && refused(&agent)? == 0 {
            taken = pending(&agent)? >= count as u64;
        }
        if !taken {
            break connection.read()?;
        }
        waiting.push(connection);
    };
    ensure!(refusal.status == 503 && refusal.header("retry-after").is_some(), "{refusal}");
    // In under 5 ms (median of several, each on a warm connection).
    let mut connection = Connection::tcp(agent.http)?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let sent = Instant::now();
        ensure!(connection.send(&request)?.status == 503, "the queue was not full any more");
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    ensure!(times[4] < Duration::from_millis(5), "refused after {times:?}");
    for mut connection in waiting {
        let response = connection.read()?;
        ensure!(response.status == 200, "an accepted request got {response}");
    }
    Ok(())
}

#[test]
fn bodies_over_the_byte_budget_are_refused_before_they_are_read() -> Result<()> {
    let agent = Setup::new()?
        .model("add", &onnx::add_one(4), "max_batch_size = 8\n")?
        .config("[serve]\nbuffered_limit_bytes = 65536")
        .start()?;
    let path = "/v2/models/add/infer";
    let mut holder = Connection::tcp(agent.http)?;
    holder.write(&Request::post_claiming(path, 60_000, "{").bytes())?;
    agent.wait_for_status("holding a body", |status| status["buffered_bytes"].as_u64() >= Some(60_000))?;
    let mut second = Connection::tcp(agent.http)?;
    second.write(&Request::post_claiming(path, 60_000, "").bytes())?;
    let response = second.read()?;
    ensure!(response.status == 503 && response.header("retry-after").is_some(), "{response}");
    drop(holder);
    agent.wait_for_status("free again", |status| status["buffered_bytes"] == 0)?;
    crate::assert_serves(&agent)
}

fn pending(agent: &harness::Agent) -> Result<u64> {
    Ok(agent.status()?["models"][0]["pending"].as_u64().unwrap_or(0))
}

fn refused(agent: &harness::Agent) -> Result<u64> {
    let series = "nv_inference_request_failure{model=\"slow\",version=\"1\",reason=\"REJECTED\"}";
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    Ok(agent.metric(series)?.unwrap_or(0.0) as u64)
}
