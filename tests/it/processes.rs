//! The agent's two processes: a person at the terminal, and an upgrade under them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::http::Connection;
use harness::infer::json as json_body;
use harness::{Agent, Hub, Mosquitto, Setup, onnx, workspace};
use rustix::process::{Pid, Signal, getpgid};

use crate::outbox::setup_with_hub;

fn uplink(agent: &Agent) -> Result<Pid> {
    let status = agent.wait_for_status("connected", |status| status["uplink"]["connected"] == true)?;
    let pid = status["uplink"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.and_then(Pid::from_raw).with_context(|| format!("no pid in {status}"))
}

/// A terminal sends Ctrl-C to its whole process group. If the uplink died of it, the last words would not be sent.
#[test]
fn ctrl_c_does_not_reach_the_uplink() -> Result<()> {
    let broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let agent = setup_with_hub(&hub)?.start()?;
    let child = uplink(&agent)?;
    let parent = i32::try_from(agent.process().id()).ok().and_then(Pid::from_raw);
    ensure!(getpgid(Some(child))? != getpgid(parent)?, "the uplink is in the agent's process group");
    Ok(())
}

#[test]
fn a_second_sigint_ends_it_at_once() -> Result<()> {
    let setup = Setup::new()?.model("endless", &onnx::slow(30_000), "warmup = false\n")?;
    let mut agent = setup.start()?;
    let mut waiting = Connection::tcp(agent.http)?;
    waiting.write(&json_body("endless", "x", &[1, 1], &[0.0]).bytes())?;
    agent.wait_for_status("busy", |status| status["models"][0]["pending"] == 1)?;
    let begin = Instant::now();
    agent.process().signal(Signal::INT)?;
    agent.wait_for_status("stopping", |status| status["draining"] == true)?;
    agent.process().signal(Signal::INT)?;
    let status = agent.wait_for_end()?;
    ensure!(status.code() == Some(71), "ended with {status}:\n{}", agent.log());
    ensure!(begin.elapsed() < Duration::from_secs(15), "it took {:?}:\n{}", begin.elapsed(), agent.log());
    Ok(())
}

/// A package upgrade puts another file in the program's place. What runs goes on with the program it is.
#[test]
fn the_uplink_is_started_again_after_an_upgrade() -> Result<()> {
    let broker = Mosquitto::start()?;
    let hub = Hub::start(broker.port)?;
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("mast");
    std::fs::copy(workspace::binary("mast")?, &program)?;
    let agent = setup_with_hub(&hub)?.program_at(&program).start()?;
    let before = uplink(&agent)?;
    std::fs::remove_file(&program)?;
    harness::kill_by_id(before.as_raw_nonzero().get())?;
    agent.wait_for_status("connected again", |status| {
        status["uplink"]["restarts"].as_u64() >= Some(1) && status["uplink"]["connected"] == true
    })?;
    ensure!(uplink(&agent)? != before, "the same process");
    Ok(())
}
