//! Two models, each in a worker of its own, both under load; one worker is killed with -9. Only its model's requests may fail, and
//! it answers again within two seconds; the daemon and the other model do not notice.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::load::open::{Outcome, Running};
use harness::{Agent, Setup, Tree, infer, kill_by_id, onnx, wait_for};
use serde::Serialize;
use serde_json::{Value, json};

use super::Effort;

pub(crate) const BACK_LIMIT_S: f64 = 2.0;

const PER_SECOND: f64 = 50.0;
/// Between two kills, and after the last: longer than the limit, so that a late return is seen.
const BETWEEN: Duration = Duration::from_secs(4);
const START_LIMIT: Duration = Duration::from_secs(30);

/// What was seen.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerKill {
    pub(crate) kills: u32,
    pub(crate) requests: u64,
    /// Of the model whose worker was killed.
    pub(crate) failed: usize,
    /// Of the other one.
    pub(crate) failed_of_the_other: usize,
    /// From the kill to the first reply to a request that came after it, the worst.
    pub(crate) back_s: f64,
    /// From the kill to the last failure, the worst.
    pub(crate) last_failure_s: f64,
}

pub(super) fn prove(programs: &Path, effort: Effort) -> Result<Value> {
    let found = measure(programs, effort)?;
    ensure!(found.failed_of_the_other == 0, "the other model's requests failed: {found:?}");
    if effort.judge_times {
        let worst = found.back_s.max(found.last_failure_s);
        ensure!(worst <= BACK_LIMIT_S, "it is away for too long: {found:?}");
    }
    Ok(json!(found))
}

pub(crate) fn measure(programs: &Path, effort: Effort) -> Result<WorkerKill> {
    let toml = "providers = [\"cpu\"]\nthreads = 1\nspinning = false\nisolation = \"process\"\n";
    let setup = Setup::new()?.program_at(programs.join("mast"));
    let agent = setup.model("victim", &onnx::slow(4), toml)?.model("other", &onnx::slow(2), toml)?.start()?;
    let mut found = WorkerKill {
        kills: 0,
        requests: 0,
        failed: 0,
        failed_of_the_other: 0,
        back_s: 0.0,
        last_failure_s: 0.0,
    };
    for kill in 0..effort.cycles.max(1) {
        let worker = worker_at(&agent, kill)?;
        let load =
            |model: &str| Running::start(agent.http, &infer::json(model, "x", &[1, 1], &[0.0]), PER_SECOND);
        let running = [load("victim")?, load("other")?];
        std::thread::sleep(Duration::from_secs(1));
        let killed = running[0].elapsed();
        kill_by_id(worker)?;
        std::thread::sleep(BETWEEN);
        let [a, b] = running;
        let mut outcomes = [a.stop()?, b.stop()?];
        // Whichever worker it was: its model is the one that failed more, or that paused longer.
        outcomes.sort_by_key(|outcome| (failed(outcome), back(outcome, killed)));
        let [other, victim] = &outcomes;
        found.kills += 1;
        found.requests += victim.sent + other.sent;
        found.failed += failed(victim);
        found.failed_of_the_other += failed(other);
        found.back_s = found.back_s.max(back(victim, killed).as_secs_f64());
        let last = victim.failures.last().map_or(Duration::ZERO, |(at, _)| at.saturating_sub(killed));
        found.last_failure_s = found.last_failure_s.max(last.as_secs_f64());
    }
    Ok(found)
}

/// A worker's process: the first and the second in turn.
fn worker_at(agent: &Agent, turn: u32) -> Result<i32> {
    let workers = wait_for("two workers", START_LIMIT, || {
        let workers = Tree::of(agent.process().id())?.with_argument("worker");
        Ok((workers.len() >= 2).then_some(workers))
    })?;
    let worker = workers.get(usize::try_from(turn)? % workers.len()).context("no worker")?;
    Ok(i32::try_from(*worker)?)
}

fn failed(outcome: &Outcome) -> usize {
    outcome.failures.len() + outcome.refusals.len()
}

/// From the kill until the first reply to a request that was due after it.
fn back(outcome: &Outcome, killed: Duration) -> Duration {
    let after = outcome.replies.iter().filter(|reply| reply.due > killed);
    after.map(|reply| reply.due + reply.latency - killed).min().unwrap_or(Duration::MAX)
}
