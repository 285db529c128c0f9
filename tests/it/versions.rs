//! Versions of a model while it is used: a new one takes over, a bad one changes nothing, and the repository or its operator
//! decides which serve.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http;
use harness::load::open::Running;
use harness::{Agent, Setup, files, infer, onnx, wait_until};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// The version that answers, by what it adds.
fn serving(agent: &Agent) -> Result<f32> {
    let response = agent.send_ok(&infer::json("add", "x", &[1, 4], &[0.0; 4]))?;
    let said = response.json()?["model_version"].as_str().and_then(|version| version.parse().ok());
    let values = infer::first_output(&response)?;
    ensure!(said == values.first().copied(), "another version answered than it says: {response}");
    said.context("no version")
}

/// A version that adds its own number.
fn lay(agent: &Agent, version: u16) -> Result<()> {
    let model = onnx::add(f32::from(version), 4);
    files::add_model(agent.setup().repository(), "add", version.into(), &model, "")?;
    Ok(())
}

fn agent(serve: &str) -> Result<Agent> {
    Setup::new()?.model("add", &onnx::add_one(4), "max_batch_size = 8\n")?.config(serve).start()
}

#[test]
fn versions_change_under_load_without_a_failed_request() -> Result<()> {
    let agent = agent("")?;
    let load = Running::start(agent.http, &infer::json("add", "x", &[1, 4], &[0.0; 4]), 100.0)?;
    for version in 2..=5 {
        lay(&agent, version)?;
        let answer = agent.load("add")?;
        ensure!(answer.status == 200, "version {version}: {answer}");
        ensure!(serving(&agent)? == f32::from(version), "a load that is done serves");
    }
    let outcome = load.stop()?;
    outcome.ensure_none_failed()?;
    ensure!(outcome.refusals.is_empty() && outcome.replies.len() >= 20, "{outcome:?}");
    let metadata = http::get(agent.http, "/v2/models/add")?.json()?;
    ensure!(metadata["versions"] == json!(["5"]), "{metadata}");
    wait_until("the end of the old workers", LIMIT, || Ok(agent.workers()?.len() == 1))
}

#[test]
fn a_version_that_does_not_load_leaves_the_old_one_and_says_why() -> Result<()> {
    let agent = agent("")?;
    let good = onnx::add(2.0, 4);
    let check = |what: &str, model: &[u8], word: &str| -> Result<()> {
        files::add_model(agent.setup().repository(), "add", 2, model, "")?;
        let answer = agent.load("add")?;
        ensure!(answer.status >= 400 && answer.error()?.contains(word), "{what}: {answer}");
        ensure!(serving(&agent)? == 1.0, "{what}: the old version is gone");
        let index = agent.index("add")?;
        let state = |version: &str| index.iter().find(|row| row["version"] == version);
        ensure!(state("1").is_some_and(|row| row["state"] == "READY"), "{what}: {index:?}");
        let reason = state("2").and_then(|row| row["reason"].as_str()).unwrap_or_default();
        ensure!(reason.contains(word), "{what}: {index:?}");
        let listed = agent.mast(&["models"])?;
        ensure!(String::from_utf8_lossy(&listed.stdout).contains(word), "{what}: {listed:?}");
        ensure!(agent.log().contains(word), "{what} is not in the log");
        Ok(())
    };
    check("half a file", &good[..good.len() / 2], "")?;
    check("an operator that no runtime has", &onnx::unknown_operator(), "NoSuchOperatorOfMast")?;
    // Mended, it takes over.
    lay(&agent, 2)?;
    let answer = agent.load("add")?;
    ensure!(answer.status == 200 && serving(&agent)? == 2.0, "{answer}");
    ensure!(agent.index("add")?.iter().all(|row| row["reason"].as_str().unwrap_or_default().is_empty()));
    Ok(())
}

#[test]
fn polled_the_repository_decides() -> Result<()> {
    let agent = agent("[serve]\nmodel_control_mode = \"poll\"\npoll_interval_ms = 100")?;
    ensure!(serving(&agent)? == 1.0);
    let answer = agent.unload("add")?;
    ensure!(answer.status == 503 && answer.error()?.contains("polling"), "{answer}");
    lay(&agent, 2)?;
    wait_until("version 2", LIMIT, || Ok(serving(&agent)? == 2.0))?;
    // A bad one changes nothing, however often it is looked at.
    let folder = files::add_model(agent.setup().repository(), "add", 3, b"no model", "")?;
    wait_until("the failure of version 3", LIMIT, || {
        let failed = |row: &serde_json::Value| row["version"] == "3" && row["state"] == "UNAVAILABLE";
        Ok(agent.index("add")?.iter().any(failed))
    })?;
    ensure!(serving(&agent)? == 2.0);
    std::fs::remove_dir_all(&folder)?;
    wait_until("the end of it", LIMIT, || {
        let response = agent.send(&infer::json("add", "x", &[1, 4], &[0.0; 4]))?;
        ensure!([200, 400, 404].contains(&response.status), "{response}");
        Ok(response.status != 200)
    })
}

#[test]
fn asked_for_the_operator_decides() -> Result<()> {
    let check = |serve: &str, at_start: bool, may_ask: bool| -> Result<()> {
        let agent = agent(serve)?;
        let ready = || -> Result<bool> { Ok(http::get(agent.http, "/v2/models/add/ready")?.status == 200) };
        ensure!(ready()? == at_start, "{serve}");
        ensure!(agent.index("add")?.len() == 1, "{serve}: the index shows what could be loaded");
        ensure!((agent.load("add")?.status == 200) == may_ask, "{serve}: load");
        ensure!(ready()? == (at_start || may_ask), "{serve}");
        ensure!((agent.unload("add")?.status == 200) == may_ask, "{serve}: unload");
        ensure!(ready()? == (at_start && !may_ask), "{serve}");
        Ok(())
    };
    check("", true, true)?;
    check("[serve]\nload_models = []", false, true)?;
    check("[serve]\nload_models = [\"add\"]", true, true)?;
    check("[serve]\nmodel_control_mode = \"none\"", true, false)
}
