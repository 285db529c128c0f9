//! `cargo xtask prove NAME`: proofs that take as long as they are given. `cargo xtask test` runs each with a small effort, in which
//! what is counted must hold and what is timed is only shown: the builds are not optimised and the machine is busy.

mod hot_swap;
mod load_unload;
mod outbox;
mod overload;
mod perf_analyzer;
mod worker_kill;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cache, demo, fuzz, schemathesis, setup, test};

pub(crate) use hot_swap::{HotSwap, P99_LIMIT, measure as hot_swap};
pub(crate) use overload::{
    GOODPUT_LIMIT, NORMAL_LIMIT_S, Overload, REFUSAL_LIMIT_MS, WITHIN_LIMIT, measure as overload,
};
pub(crate) use worker_kill::{BACK_LIMIT_S, WorkerKill, measure as worker_kill};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(help = names())]
    name: String,
    /// How long, for a proof that takes time; its own default otherwise
    #[arg(long)]
    minutes: Option<f64>,
    /// How often, for a proof that counts; its own default otherwise
    #[arg(long)]
    cycles: Option<u32>,
    /// As `cargo xtask test` does it: briefly, with the debug build
    #[arg(long)]
    small: bool,
    /// Also write the result to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How much is done. A proof reads the one of the two that it knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) time: Duration,
    pub(crate) cycles: u32,
    /// Numbers of an unoptimised build on a busy machine are shown, not judged.
    pub(crate) judge_times: bool,
}

impl Effort {
    pub(crate) fn lasting(seconds: f64) -> Result<Self> {
        Ok(Self { time: Duration::try_from_secs_f64(seconds)?, cycles: 0, judge_times: true })
    }

    pub(crate) const fn of(cycles: u32) -> Self {
        Self { time: Duration::ZERO, cycles, judge_times: true }
    }

    const fn small(seconds: u64, cycles: u32) -> Self {
        Self { time: Duration::from_secs(seconds), cycles, judge_times: false }
    }

    const fn full(seconds: u64, cycles: u32) -> Self {
        Self { time: Duration::from_secs(seconds), cycles, judge_times: true }
    }
}

/// A proof. `run` takes the folder of the programs and says what it found; an error where it does not hold.
struct Proof {
    name: &'static str,
    what: &'static str,
    run: fn(&Path, Effort) -> Result<Value>,
    full: Effort,
    /// In `cargo xtask test`; none where it needs more than the repository's own setup.
    small: Option<Effort>,
}

const PROOFS: [Proof; 8] = [
    Proof {
        name: "outbox",
        what: "kill -9 the broker, the uplink and the agent in turn, under load; the hub must count every reply",
        run: outbox::prove,
        full: Effort::full(600, 0),
        small: Some(Effort::small(15, 0)),
    },
    Proof {
        name: "load-unload",
        what: "load, use and unload a model again and again, in the daemon and in a worker; memory must be flat within 5 %",
        run: load_unload::prove,
        full: Effort::full(0, 500),
        small: Some(Effort::small(0, 12)),
    },
    Proof {
        name: "overload",
        what: "ten times as many requests as fit; refusals at once, the same goodput, flat memory, normal again in a second",
        run: overload::prove,
        full: Effort::full(60, 0),
        small: Some(Effort::small(4, 0)),
    },
    Proof {
        name: "hot-swap",
        what: "new versions of a model under load; no request fails",
        run: hot_swap::prove,
        full: Effort::full(0, 50),
        small: Some(Effort::small(0, 4)),
    },
    Proof {
        name: "worker-kill",
        what: "kill -9 a model's worker under load; only its requests fail, it is back in 2 s",
        run: worker_kill::prove,
        full: Effort::full(0, 10),
        small: Some(Effort::small(0, 1)),
    },
    Proof {
        name: "perf-analyzer",
        what: "perf_analyzer over HTTP and gRPC, concurrency 1 to 64, to a stable result",
        run: perf_analyzer::prove,
        full: Effort::full(0, 0),
        small: None,
    },
    Proof {
        name: "fuzz",
        what: "every reader of foreign bytes against a fuzzer; the time is shared by all targets",
        run: |programs, effort| fuzz::fuzz(programs, effort.time),
        full: Effort::full(1800, 0),
        // Its programs take longer to build than all of the tests to run.
        small: None,
    },
    Proof {
        name: "schemathesis",
        what: "the daemon against its OpenAPI document, all checks",
        run: |programs, effort| schemathesis::schemathesis(programs, effort.time),
        full: Effort::full(600, 0),
        small: Some(Effort::small(10, 0)),
    },
];

fn names() -> String {
    PROOFS.iter().map(|proof| format!("{}: {}", proof.name, proof.what)).collect::<Vec<_>>().join("\n")
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let Some(proof) = PROOFS.iter().find(|proof| proof.name == args.name) else {
        bail!("no proof {}; there are\n{}", args.name, names());
    };
    let small = proof.small.filter(|_| args.small);
    let mut effort = small.unwrap_or(proof.full);
    if let Some(minutes) = args.minutes {
        effort.time = Duration::try_from_secs_f64(minutes * 60.0)?;
    }
    effort.cycles = args.cycles.unwrap_or(effort.cycles);
    setup::ensure()?;
    let root = cache::root();
    let programs = match small {
        Some(_) => test::target_dir(&root).join("debug"),
        None => demo::build_release(&root)?,
    };
    let found = (proof.run)(&programs, effort)?;
    println!("{found:#}");
    if let Some(path) = &args.json {
        let mut file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        write!(file, "{found:#}")?;
    }
    Ok(())
}

/// Every proof, with a small effort.
pub(crate) fn small(programs: &Path) -> Result<()> {
    for proof in &PROOFS {
        let Some(effort) = proof.small else { continue };
        let started = Instant::now();
        let found = (proof.run)(programs, effort).with_context(|| proof.name)?;
        println!("{} ({:.1} s): {found}", proof.name, started.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The largest sample of the part `from..to` (0 to 1) of a run.
fn largest(samples: &[u64], from: f64, to: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let at = |part: f64| (samples.len() as f64 * part) as usize;
    samples.get(at(from)..at(to).max(at(from) + 1))?.iter().copied().max()
}

/// How much more memory the last fifth of a run took than its second fifth did, as a ratio.
fn growth(samples: &[u64]) -> Result<f64> {
    let (early, late) = (largest(samples, 0.2, 0.4), largest(samples, 0.8, 1.0));
    let (early, late) = early.zip(late).context("too short to say whether memory is flat")?;
    Ok(late as f64 / early.max(1) as f64)
}

/// "Flat within 5 %".
pub(crate) const MEMORY_LIMIT: f64 = 1.05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_growth_and_a_high_start_is_not() {
        let check = |samples: &[u64], leaks: bool| {
            let growth = growth(samples).unwrap();
            assert_eq!(growth > MEMORY_LIMIT, leaks, "{samples:?}: {growth}");
        };
        check(&[100, 110, 112, 111, 112, 110, 112, 111, 113, 112], false);
        check(&[100, 110, 112, 114, 116, 118, 120, 122, 124, 126], true);
        check(&[500, 110, 112, 111, 112, 110, 112, 111, 113, 112], false);
        check(&[100], false);
        assert!(growth(&[]).is_err());
    }
}
