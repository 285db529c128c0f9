//! The rows of what is proven under load: the proofs of [`crate::prove`], with their numbers judged.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Findings, Scale};
use crate::bench::{Programs, Row};
use crate::prove::{self, HotSwap, Overload, WorkerKill};

fn findings(rows: Vec<Row>) -> Findings {
    Findings { rows, text: String::new() }
}

fn release(programs: &Programs) -> Result<&Path> {
    programs.mast.parent().context("a program in no folder")
}

pub(super) fn overload(programs: &Programs, scale: Scale) -> Result<Findings> {
    let found: Overload = prove::overload(release(programs)?, scale.overload)?;
    println!("  {found:?}");
    let what = format!(
        "overload, open loop at 10 × {:.0} requests/s: last byte of the request to first of the refusal, p99",
        found.capacity_per_s
    );
    let in_time = format!("overload: refusals made within {} ms at the server", prove::REFUSAL_LIMIT_MS);
    let again = found.normal_again_s.unwrap_or(f64::INFINITY);
    Ok(findings(vec![
        Row::at_most(what, found.refusal_p99_ms, "ms", prove::REFUSAL_LIMIT_MS),
        Row::at_least(in_time, found.refused_in_time, "of all", prove::WITHIN_LIMIT),
        Row::at_least(
            "overload: goodput over that at 1 × (floor in requests/s)",
            found.goodput_ratio(),
            "×",
            prove::GOODPUT_LIMIT,
        )
        .beside(found.goodput_at_capacity),
        Row::at_most(
            "overload: memory at the end over that near the start",
            found.memory_growth,
            "×",
            prove::MEMORY_LIMIT,
        ),
        Row::at_most("overload: from its end to normal latency", again, "s", prove::NORMAL_LIMIT_S),
    ]))
}

pub(super) fn hot_swap(programs: &Programs, scale: Scale) -> Result<Findings> {
    let found: HotSwap = prove::hot_swap(release(programs)?, scale.hot_swap)?;
    println!("  {found:?}");
    let what = format!("{} hot swaps, open loop at 30 % of capacity: failed requests", found.swaps);
    Ok(findings(vec![
        Row::at_most(what, found.failed as f64, "", 0.0).beside(found.requests as f64),
        Row::at_most(
            "hot swaps: p99 over that without (floor in ms)",
            found.p99_ratio(),
            "×",
            prove::P99_LIMIT,
        )
        .beside(found.steady_p99_ms),
    ]))
}

pub(super) fn worker_kill(programs: &Programs, scale: Scale) -> Result<Findings> {
    let found: WorkerKill = prove::worker_kill(release(programs)?, scale.worker_kill)?;
    println!("  {found:?}");
    let what =
        format!("{} workers killed with -9 under load: failed requests of the other model", found.kills);
    let away = found.back_s.max(found.last_failure_s);
    Ok(findings(vec![
        Row::at_most(what, found.failed_of_the_other as f64, "", 0.0).beside(found.requests as f64),
        Row::at_most("worker killed: the model is back after", away, "s", prove::BACK_LIMIT_S),
    ]))
}
