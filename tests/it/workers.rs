//! Models in processes of their own: what one of them does to itself, and what it cannot do to anybody else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::load::open::Running;
use harness::{Agent, Setup, infer, kill_by_id, onnx, wait_for, wait_until};

const TOML: &str = "providers = [\"cpu\"]\nthreads = 1\nspinning = false\nisolation = \"process\"\n";
const BACK_LIMIT: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(30);

/// An agent that serves `victim`, and the worker that runs it.
fn agent_with_victim() -> Result<(Agent, u32)> {
    let setup = Setup::new()?.model("victim", &onnx::slow(4), TOML)?.model("other", &onnx::slow(2), TOML)?;
    let agent = setup.config("[serve]\nload_models = [\"victim\"]").start()?;
    let workers = agent.workers()?;
    ensure!(workers.len() == 1, "one model, {workers:?}");
    let worker = *workers.first().context("no worker")?;
    Ok((agent, worker))
}

#[test]
fn a_worker_that_is_killed_is_back_and_nobody_else_notices() -> Result<()> {
    let (agent, worker) = agent_with_victim()?;
    ensure!(agent.load("other")?.status == 200, "load");
    let request = |model: &str| infer::json(model, "x", &[1, 1], &[0.0]);
    let other = Running::start(agent.http, &request("other"), 20.0)?;
    let victim = Running::start(agent.http, &request("victim"), 20.0)?;
    // Both answer before the kill.
    agent.send_ok(&request("victim"))?;
    agent.send_ok(&request("other"))?;
    let killed = Instant::now();
    let at = victim.elapsed();
    kill_by_id(i32::try_from(worker)?)?;
    wait_until("another worker", LIMIT, || {
        let workers = agent.workers()?;
        Ok(workers.len() == 2 && !workers.contains(&worker))
    })?;
    wait_until("the model", LIMIT, || Ok(agent.send(&request("victim"))?.status == 200))?;
    let back = killed.elapsed();
    let (victim, other) = (victim.stop()?, other.stop()?);
    ensure!(back <= BACK_LIMIT, "away for {back:?}");
    other.ensure_none_failed()?;
    ensure!(other.refusals.is_empty(), "{other:?}");
    // Only what came after the kill, and until it was back.
    let early = victim.failures.iter().find(|(when, _)| *when < at);
    let late = victim.failures.iter().find(|(when, _)| *when > at + BACK_LIMIT);
    ensure!(early.is_none() && late.is_none(), "{victim:?}");
    ensure!(agent.log().contains("worker"), "the log says nothing");
    Ok(())
}

#[test]
fn an_unload_gives_the_memory_back_and_a_load_takes_as_much_again() -> Result<()> {
    let (agent, first) = agent_with_victim()?;
    let mut gone = first;
    for _ in 0..3 {
        ensure!(agent.unload("victim")?.status == 200, "unload");
        wait_until("the end of the worker", LIMIT, || Ok(agent.workers()?.is_empty()))?;
        ensure!(std::fs::metadata(format!("/proc/{gone}")).is_err(), "{gone} is still there");
        ensure!(agent.load("victim")?.status == 200, "load");
        agent.send_ok(&infer::json("victim", "x", &[1, 1], &[0.0]))?;
        let workers = agent.workers()?;
        ensure!(workers.len() == 1 && workers[0] != gone, "{workers:?} after {gone}");
        gone = workers[0];
    }
    Ok(())
}

/// What the agent says that the kernel gave is what the kernel says.
#[test]
fn a_worker_is_confined_and_says_so() -> Result<()> {
    let (agent, worker) = agent_with_victim()?;
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("sandbox of the workers")).context("no word of it")?;
    let status = std::fs::read_to_string(format!("/proc/{worker}/status"))?;
    let of_kernel = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    ensure!(of_kernel("NoNewPrivs:") == Some("1"), "{status}");
    let enforced = line.split("partial").next().unwrap_or_default();
    ensure!(enforced.contains("seccomp") == (of_kernel("Seccomp:") == Some("2")), "{line}\n{status}");
    // After its load it has no network: nothing it could have opened one with.
    let sockets = std::fs::read_to_string(format!("/proc/{worker}/net/tcp")).unwrap_or_default();
    if enforced.contains("net") {
        ensure!(sockets.lines().count() <= 1, "it sees the machine's sockets: {sockets}");
    }
    Ok(())
}

/// The agent's end is the end of its workers, however it comes.
#[test]
fn no_worker_outlives_the_agent() -> Result<()> {
    let check = |end: fn(&mut Agent) -> Result<()>| -> Result<()> {
        let (mut agent, worker) = agent_with_victim()?;
        end(&mut agent)?;
        wait_for("the end of the worker", LIMIT, || {
            // A zombie has no memory and no file open.
            let state = std::fs::read_to_string(format!("/proc/{worker}/stat"));
            Ok(state.map_or(true, |stat| stat.contains(") Z ")).then_some(()))
        })
    };
    check(Agent::kill)?;
    check(|agent| agent.terminate().map(drop))
}
