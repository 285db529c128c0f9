//! New versions of a model while it is used: laid beside the old one, loaded, shifted to, and the old one removed. No request
//! may notice.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http::{self, Request};
use harness::load::open::{self, Running};
use harness::load::{self, Until};
use harness::{Agent, Setup, files, infer, wait_until, workspace};
use serde::Serialize;
use serde_json::{Value, json};

use super::Effort;

pub(crate) const P99_LIMIT: f64 = 1.5;

const MODEL: &str = "efficientnet-lite0-int8";
const INPUT: (&str, [u64; 4]) = ("image", [1, 3, 224, 224]);
const LOAD: f64 = 0.3;
const SWAP_LIMIT: Duration = Duration::from_secs(60);

/// What was seen.
#[derive(Debug, Serialize)]
pub(crate) struct HotSwap {
    pub(crate) swaps: u32,
    pub(crate) requests: u64,
    /// Anything but a 200.
    pub(crate) failed: usize,
    pub(crate) steady_p99_ms: f64,
    pub(crate) swapping_p99_ms: f64,
    pub(crate) seconds_per_swap: f64,
}

impl HotSwap {
    pub(crate) fn p99_ratio(&self) -> f64 {
        self.swapping_p99_ms / self.steady_p99_ms
    }
}

pub(super) fn prove(programs: &Path, effort: Effort) -> Result<Value> {
    let found = measure(programs, effort)?;
    ensure!(found.failed == 0, "requests failed: {found:?}");
    if effort.judge_times {
        ensure!(found.p99_ratio() <= P99_LIMIT, "swaps are felt: {found:?}");
    }
    Ok(json!(found))
}

pub(crate) fn measure(programs: &Path, effort: Effort) -> Result<HotSwap> {
    let setup = Setup::new()?.program_at(programs.join("mast"));
    let source = workspace::models().join(MODEL);
    let model = setup.repository().join(MODEL);
    copy(&source.join("1"), &model.join("1"))?;
    for file in ["model.toml", "labels.txt"] {
        let text = std::fs::read(source.join(file)).with_context(|| format!("no {file} of {MODEL}"))?;
        files::write(model.join(file), text)?;
    }
    let agent = setup.start()?;
    let elements = usize::try_from(INPUT.1.iter().product::<u64>())?;
    let request = infer::binary(MODEL, INPUT.0, &INPUT.1, &infer::f32_bytes(&vec![0.5; elements]));
    let warm = load::run(agent.http, &request, 4, Until::Requests(40))?;
    let capacity = load::run(agent.http, &request, 4, Until::Requests(warm.replies * 2))?.throughput();
    let steady_time = Duration::from_secs(if effort.judge_times { 20 } else { 3 });
    let steady = open::run(agent.http, &request, capacity * LOAD, steady_time)?;
    steady.ensure_none_failed()?;

    let running = Running::start(agent.http, &request, capacity * LOAD)?;
    for version in 2..=u64::from(effort.cycles) + 1 {
        swap(&agent, &model, version)?;
    }
    let seconds = running.elapsed().as_secs_f64();
    let swapping = running.stop()?;
    if let Some((at, what)) = swapping.failures.first() {
        println!("  the first failure, at {at:.1?}: {what}");
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(HotSwap {
        swaps: effort.cycles,
        requests: swapping.sent,
        failed: swapping.failures.len() + swapping.refusals.len(),
        steady_p99_ms: ms(steady.quantile(0.99)),
        swapping_p99_ms: ms(swapping.quantile(0.99)),
        seconds_per_swap: seconds / f64::from(effort.cycles.max(1)),
    })
}

/// Lays the version beside the one before, loads, waits until it answers, and removes the one before.
fn swap(agent: &Agent, model: &Path, version: u64) -> Result<()> {
    let old = model.join((version - 1).to_string());
    copy(&old, &model.join(version.to_string()))?;
    let load = agent.control(&Request::post(&format!("/v2/repository/models/{MODEL}/load"), "{}"))?;
    ensure!(load.status == 200, "load of version {version}: {load}");
    wait_until(&format!("version {version} alone"), SWAP_LIMIT, || {
        let metadata = http::get(agent.http, &format!("/v2/models/{MODEL}"))?;
        Ok(metadata.status == 200 && metadata.json()?["versions"] == json!([version.to_string()]))
    })?;
    std::fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in files::walk(from)? {
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        files::write(to.join(file.strip_prefix(from)?), bytes)?;
    }
    Ok(())
}
