//! Load, use, unload, again and again. What was taken comes back: resident memory after an unload stays flat, of the daemon and,
//! where the model ran in a worker, of all processes together.

use std::path::Path;

use anyhow::{Result, ensure};
use harness::http::Request;
use harness::{Agent, Setup, Tree, infer, workspace};
use serde_json::{Value, json};

use super::{Effort, MEMORY_LIMIT, growth};

const MODEL: &str = "efficientnet-lite0-int8";

pub(super) fn prove(programs: &Path, effort: Effort) -> Result<Value> {
    Ok(json!({
        "none": cycle(programs, "none", effort.cycles)?,
        "process": cycle(programs, "process", effort.cycles)?,
    }))
}

fn cycle(programs: &Path, isolation: &str, cycles: u32) -> Result<Value> {
    let model = std::fs::read(workspace::models().join(MODEL).join("1/model.onnx"))?;
    let toml = format!("providers = [\"cpu\"]\nthreads = 1\nisolation = \"{isolation}\"\n");
    let agent = Setup::new()?.program_at(programs.join("mast")).model("net", &model, &toml)?.start()?;
    let shape = [1, 3, 224, 224];
    let request = infer::binary("net", "image", &shape, &infer::f32_bytes(&vec![0.5; 3 * 224 * 224]));
    let (mut daemon, mut all, mut loaded) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..cycles.max(1) {
        agent.send_ok(&request)?;
        loaded.push(Tree::of(agent.process().id())?.resident_bytes());
        order(&agent, "unload")?;
        daemon.push(agent.process().resident_bytes()?);
        all.push(Tree::of(agent.process().id())?.resident_bytes());
        order(&agent, "load")?;
    }
    let found = json!({
        "cycles": cycles,
        "growth_daemon": growth(&daemon)?,
        "growth_all_processes": growth(&all)?,
        "resident_unloaded_mib": all.last().map(|bytes| bytes >> 20),
        "resident_loaded_mib": loaded.last().map(|bytes| bytes >> 20),
    });
    ensure!(
        growth(&daemon)? <= MEMORY_LIMIT && growth(&all)? <= MEMORY_LIMIT,
        "memory grows with isolation = {isolation:?}: {found}"
    );
    Ok(found)
}

fn order(agent: &Agent, what: &str) -> Result<()> {
    let done = agent.control(&Request::post(&format!("/v2/repository/models/net/{what}"), "{}"))?;
    ensure!(done.status == 200, "{what}: {done}");
    Ok(())
}
