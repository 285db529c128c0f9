//! Start, stop, and what is in flight meanwhile.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http::{self, Connection};
use harness::infer::{first_output, json as json_body};
use harness::{Setup, onnx, wait_until};

use crate::{assert_serves, setup_with_add};

#[test]
fn sigterm_finishes_what_is_in_flight() -> Result<()> {
    let mut agent = setup_with_add()?.model("slow", &onnx::slow(400), "")?.start()?;
    let mut waiting = Vec::new();
    for count in 1..=3_u64 {
        let mut connection = Connection::tcp(agent.http)?;
        connection.write(&json_body("slow", "x", &[1, 1], &[0.0]).bytes())?;
        waiting.push(connection);
        agent.wait_for_status("busy", |status| pending(status) >= count)?;
    }
    agent.ask_to_stop()?;
    for mut connection in waiting {
        let response = connection.read()?;
        ensure!(response.status == 200 && first_output(&response)? == [0.0], "in flight: {response}");
    }
    let status = agent.wait_for_end()?;
    ensure!(status.code() == Some(0), "ended with {status}:\n{}", agent.log());
    let asked = agent.mast(&["status"])?;
    ensure!(
        asked.status.code() == Some(1),
        "something still answers: {}",
        String::from_utf8_lossy(&asked.stdout)
    );
    Ok(())
}

#[test]
fn readiness_goes_before_the_listener() -> Result<()> {
    let mut agent = setup_with_add()?.model("slow", &onnx::slow(2000), "")?.start()?;
    let mut waiting = Connection::tcp(agent.http)?;
    let mut probe = Connection::tcp(agent.http)?;
    ensure!(probe.send(&http::Request::get("/v2/health/ready"))?.status == 200, "not ready");
    waiting.write(&json_body("slow", "x", &[1, 1], &[0.0]).bytes())?;
    agent.wait_for_status("busy", |status| pending(status) == 1)?;
    agent.ask_to_stop()?;
    // While the long request runs, readiness is off: a connection that was open, or the control socket, says so.
    wait_until("readiness to go off", Duration::from_secs(10), || {
        let ready = probe.send(&http::Request::get("/v2/health/ready")).map(|response| response.status);
        let draining = agent.status().map(|status| status["draining"] == true);
        Ok(matches!(ready, Ok(400)) || matches!(draining, Ok(true)))
    })?;
    ensure!(waiting.read()?.status == 200, "the request in flight was lost");
    ensure!(agent.wait_for_end()?.code() == Some(0), "{}", agent.log());
    Ok(())
}

#[test]
fn what_does_not_finish_in_the_budget_is_named() -> Result<()> {
    let setup = Setup::new()?.model("endless", &onnx::slow(30_000), "warmup = false\n")?;
    let mut agent = setup.config("[shutdown]\nbudget_ms = 400\nuplink_budget_ms = 100").start()?;
    let mut waiting = Connection::tcp(agent.http)?;
    waiting.write(&json_body("endless", "x", &[1, 1], &[0.0]).bytes())?;
    agent.wait_for_status("busy", |status| pending(status) == 1)?;
    agent.ask_to_stop()?;
    let status = agent.wait_for_end()?;
    ensure!(status.code() == Some(71), "ended with {status}:\n{}", agent.log());
    ensure!(agent.log().contains("endless"), "the log does not name the model:\n{}", agent.log());
    Ok(())
}

#[test]
fn killed_and_started_again() -> Result<()> {
    let mut agent = setup_with_add()?.start()?;
    agent.kill()?;
    ensure!(agent.control_socket().exists(), "kill -9 leaves the socket file, or this proves nothing");
    agent.start_again()?;
    assert_serves(&agent)
}

/// Type=notify: READY=1 once it is ready, WATCHDOG=1 in time, STOPPING=1 at its end (`sd_notify(3)`).
#[test]
fn systemd_is_told() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let setup = setup_with_add()?.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let mut agent = setup.start()?;
    let expect = |wanted: &str| -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).with_context(|| format!("never told {wanted}"))?;
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.lines().any(|line| line == wanted) {
                return Ok(());
            }
        }
    };
    expect("READY=1")?;
    expect("WATCHDOG=1")?;
    expect("WATCHDOG=1")?;
    agent.ask_to_stop()?;
    expect("STOPPING=1")?;
    ensure!(agent.wait_for_end()?.code() == Some(0), "{}", agent.log());
    Ok(())
}

#[test]
fn the_control_socket_is_for_owner_and_group() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let agent = setup_with_add()?.start()?;
    let mode = std::fs::metadata(agent.control_socket())?.permissions().mode() & 0o777;
    ensure!(mode == 0o660, "mode {mode:o}");
    Ok(())
}

/// Both fences against telemetry: the variable is in the environment that the kernel shows, from before any thread.
#[test]
fn telemetry_is_off_in_the_environment() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    let mut environment = Vec::new();
    std::fs::File::open(format!("/proc/{}/environ", agent.process().id()))?.read_to_end(&mut environment)?;
    let set = environment.split(|byte| *byte == 0).any(|line| line == b"ORT_DISABLE_TELEMETRY=1");
    ensure!(set, "not set in {}", String::from_utf8_lossy(&environment).replace('\0', " "));
    Ok(())
}

fn pending(status: &serde_json::Value) -> u64 {
    let models = status["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    models.iter().filter_map(|model| model["pending"].as_u64()).sum()
}
