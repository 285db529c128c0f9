//! Ten times as many requests as fit. What does not fit is refused at once, what fits is served as if nothing were, memory does
//! not grow, and when it is over it is over.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::load::open::{self, Running};
use harness::load::{self, Until};
use harness::{Agent, Setup, infer, onnx};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Effort, MEMORY_LIMIT, growth};

pub(crate) const REFUSAL_LIMIT_MS: f64 = 5.0;
/// The same as the bucket of the server's histogram.
const REFUSAL_LIMIT_US: &str = "5000";
/// Of the refusals, how many the server must make within that time: its p99.
pub(crate) const WITHIN_LIMIT: f64 = 0.99;
pub(crate) const GOODPUT_LIMIT: f64 = 0.9;
pub(crate) const NORMAL_LIMIT_S: f64 = 1.0;

const COMPUTE_AT_LEAST_MS: f64 = 10.0;
const TIMES: f64 = 10.0;
/// Of the capacity, for what is normal.
const QUIET: f64 = 0.3;
/// Requests that may wait: a third of a second of work.
const QUEUE_LIMIT: u32 = 32;

/// What was seen.
#[derive(Debug, Serialize)]
pub(crate) struct Overload {
    pub(crate) capacity_per_s: f64,
    /// 200s a second when as many come as fit.
    pub(crate) goodput_at_capacity: f64,
    /// 200s a second when ten times as many come.
    pub(crate) goodput_over: f64,
    pub(crate) refused: usize,
    /// The part of the refusals that the server made within [`REFUSAL_LIMIT_MS`] of the request's last byte, by its own histogram.
    pub(crate) refused_in_time: f64,
    /// From the last byte of the request to the first byte of the refusal, as the client sees it on the same cores.
    pub(crate) refusal_p50_ms: f64,
    pub(crate) refusal_p99_ms: f64,
    /// How late the generator itself was.
    pub(crate) late_p99_ms: f64,
    pub(crate) resident_mib: f64,
    pub(crate) memory_growth: f64,
    /// From the end of the overload until requests are answered as before; none if they never were.
    pub(crate) normal_again_s: Option<f64>,
}

impl Overload {
    pub(crate) fn goodput_ratio(&self) -> f64 {
        self.goodput_over / self.goodput_at_capacity
    }
}

pub(super) fn prove(programs: &Path, effort: Effort) -> Result<Value> {
    let found = measure(programs, effort)?;
    ensure!(found.refused > 0, "nothing was refused: {found:?}");
    ensure!(found.normal_again_s.is_some(), "never normal again: {found:?}");
    if effort.judge_times {
        // In seconds the clients' connections have not all come yet.
        ensure!(found.memory_growth <= MEMORY_LIMIT, "memory grows: {found:?}");
        let normal = found.normal_again_s.unwrap_or(f64::MAX);
        ensure!(found.refused_in_time >= WITHIN_LIMIT, "refused too late: {found:?}");
        ensure!(found.goodput_ratio() >= GOODPUT_LIMIT, "the overload costs goodput: {found:?}");
        ensure!(normal < NORMAL_LIMIT_S, "normal again too late: {found:?}");
    }
    Ok(json!(found))
}

pub(crate) fn measure(programs: &Path, effort: Effort) -> Result<Overload> {
    let (agent, capacity_per_s) = agent(programs, effort.time.min(Duration::from_secs(3)))?;
    let request = infer::json("slow", "x", &[1, 1], &[0.0]);
    let quiet_time = effort.time.clamp(Duration::from_secs(3), Duration::from_secs(10));
    let quiet = open::run(agent.http, &request, capacity_per_s * QUIET, quiet_time)?;
    quiet.ensure_none_failed().context("with little load")?;
    ensure!(quiet.refusals.is_empty(), "refused with little load");
    let at_capacity = open::run(agent.http, &request, capacity_per_s, effort.time)?;
    at_capacity.ensure_none_failed().context("at capacity")?;

    let over = Running::start(agent.http, &request, capacity_per_s * TIMES)?;
    let mut resident = Vec::new();
    while over.elapsed() < effort.time {
        resident.push(agent.process().resident_bytes()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    over.halt();
    let after = Running::start(agent.http, &request, capacity_per_s * QUIET)?;
    let over = over.stop()?;
    over.ensure_none_failed().context("over capacity")?;
    let wanted = quiet.quantile(0.99).mul_f64(1.5);
    std::thread::sleep(quiet_time.saturating_sub(after.elapsed()));
    let after = after.stop()?;
    after.ensure_none_failed().context("after the overload")?;

    let refused_by_server = |le: &str| {
        let series = format!("mast_refusal_duration_us_bucket{{le=\"{le}\"}}");
        agent.metric(&series)?.with_context(|| format!("no {series}"))
    };
    let in_time = refused_by_server(REFUSAL_LIMIT_US)?;
    let counted = refused_by_server("+Inf")?;
    let seen = over.refusals.len() as f64;
    ensure!(counted >= 0.9 * seen, "the queue refused {counted}, the clients were refused {seen} times");

    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(Overload {
        capacity_per_s,
        goodput_at_capacity: at_capacity.goodput(),
        goodput_over: over.goodput(),
        refused: over.refusals.len(),
        refused_in_time: in_time / counted,
        refusal_p50_ms: ms(over.refused_within(0.5)),
        refusal_p99_ms: ms(over.refused_within(0.99)),
        late_p99_ms: ms(over.late_p99),
        resident_mib: *resident.last().context("no sample")? as f64 / f64::from(1 << 20),
        memory_growth: growth(&resident)?,
        normal_again_s: normal_again(&after.replies, wanted, quiet_time).map(|time| time.as_secs_f64()),
    })
}

/// The agent with a model of at least [`COMPUTE_AT_LEAST_MS`] on this machine, and how many a second it serves.
fn agent(programs: &Path, time: Duration) -> Result<(Agent, f64)> {
    let mut steps = 12;
    loop {
        let toml =
            format!("providers = [\"cpu\"]\nthreads = 1\nspinning = false\nqueue_limit = {QUEUE_LIMIT}\n");
        let setup = Setup::new()?.program_at(programs.join("mast"));
        let agent = setup.model("slow", &onnx::slow(steps), &toml)?.start()?;
        let request = infer::json("slow", "x", &[1, 1], &[0.0]);
        let started = Instant::now();
        let outcome = load::run(agent.http, &request, 4, Until::After(time))?;
        let capacity = outcome.replies as f64 / started.elapsed().as_secs_f64();
        if 1e3 / capacity >= COMPUTE_AT_LEAST_MS {
            return Ok((agent, capacity));
        }
        steps *= 2;
    }
}

/// The first moment from which on, for half a second, every reply is as fast as `wanted`.
fn normal_again(replies: &[open::Reply], wanted: Duration, end: Duration) -> Option<Duration> {
    const STEADY: Duration = Duration::from_millis(500);
    let mut due: Vec<_> = replies.to_vec();
    due.sort_unstable_by_key(|reply| reply.due);
    let holds = |from: Duration| {
        let mut within = due.iter().filter(|reply| (from..from + STEADY).contains(&reply.due)).peekable();
        within.peek().is_some() && within.all(|reply| reply.latency <= wanted)
    };
    due.iter().map(|reply| reply.due).take_while(|due| *due + STEADY <= end).find(|due| holds(*due))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_is_half_a_second_without_a_slow_reply() {
        let check = |slow_until_ms: u64, expected: Option<u64>| {
            let reply = |index: u64| {
                let due = Duration::from_millis(index * 100);
                let slow = index * 100 < slow_until_ms;
                open::Reply { due, latency: Duration::from_millis(if slow { 90 } else { 10 }) }
            };
            let replies: Vec<_> = (0..30).map(reply).collect();
            let found = normal_again(&replies, Duration::from_millis(15), Duration::from_secs(3));
            assert_eq!(found, expected.map(Duration::from_millis), "{slow_until_ms}");
        };
        check(0, Some(0));
        check(300, Some(300));
        check(10_000, None);
    }
}
