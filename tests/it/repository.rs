//! The model repository: what is served, loaded, unloaded, and what a bad model does to the others: nothing.

use anyhow::{Context, Result, ensure};
use harness::http::{self, Request};
use harness::infer::json as json_body;
use harness::{Agent, onnx};
use serde_json::Value;

use crate::{assert_serves, setup_with_add};

fn index(agent: &Agent) -> Result<Vec<Value>> {
    let response = http::post(agent.http, "/v2/repository/index", "")?;
    ensure!(response.status == 200, "{response}");
    response.json()?.as_array().cloned().context("the index is a list")
}

fn entry(agent: &Agent, model: &str) -> Result<Value> {
    let index = index(agent)?;
    index
        .iter()
        .find(|entry| entry["name"] == model)
        .cloned()
        .with_context(|| format!("no {model} in {index:?}"))
}

#[test]
fn load_and_unload() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    ensure!(entry(&agent, "add")?["state"] == "READY", "not ready");
    ensure!(agent.unload("add")?.status == 200, "unload");
    ensure!(entry(&agent, "add")?["state"] == "UNAVAILABLE", "still there");
    let response = agent.send(&json_body("add", "x", &[1, 4], &[0.0; 4]))?;
    ensure!(
        (400..500).contains(&response.status) && response.error()?.contains("add"),
        "unloaded: {response}"
    );
    ensure!(agent.load("add")?.status == 200, "load");
    assert_serves(&agent)?;
    let response = agent.load("none")?;
    ensure!(
        (400..500).contains(&response.status) && response.error()?.contains("none"),
        "unknown: {response}"
    );
    assert_serves(&agent)
}

#[test]
fn a_bad_model_says_why_and_leaves_the_others_alone() -> Result<()> {
    let good = onnx::add_one(4);
    let agent = setup_with_add()?
        .model("truncated", &good[..good.len() / 2], "")?
        .model("garbage", b"this is no model", "")?
        .model("empty", b"", "")?
        .model("odd-op", &onnx::unknown_operator(), "")?
        .model("bad-toml", &good, "providers = [\"cpu\"]\nturbo = true\n")?
        .model("bad-provider", &good, "providers = [\"abacus\"]\n")?
        .model("bad-require", &good, "providers = [\"cuda\", \"cpu\"]\nrequire = \"cuda\"\n")?
        .start()?;
    std::fs::create_dir_all(agent.setup().repository().join("no-version"))?;
    let check = |model: &str, words: &[&str]| -> Result<()> {
        let entry = entry(&agent, model)?;
        ensure!(entry["state"] == "UNAVAILABLE", "{model}: {entry}");
        let reason = entry["reason"].as_str().unwrap_or_default();
        ensure!(!reason.is_empty(), "{model} has no reason");
        for word in words {
            ensure!(reason.contains(word), "{model}: \"{reason}\" does not say \"{word}\"");
        }
        let response = agent.send(&json_body(model, "x", &[1, 4], &[0.0; 4]))?;
        ensure!((400..500).contains(&response.status), "{model}: {response}");
        let again = agent.load(model)?;
        ensure!(again.status >= 400 && !again.error()?.is_empty(), "{model} loaded: {again}");
        assert_serves(&agent)
    };
    check("truncated", &[])?;
    check("garbage", &[])?;
    check("empty", &[])?;
    check("odd-op", &["NoSuchOperatorOfMast"])?;
    check("bad-toml", &["turbo"])?;
    check("bad-provider", &["cpu"])?;
    check("bad-require", &["cuda"])?;
    let response = agent.load("no-version")?;
    ensure!(response.status >= 400 && response.error()?.contains("version"), "{response}");
    assert_serves(&agent)
}

#[test]
fn uploads_are_refused() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    let body = r#"{"parameters":{"config":"{}","file:1/model.onnx":"AAAA"}}"#;
    let response = agent.send(&Request::post("/v2/repository/models/sent/load", body))?;
    ensure!(response.status >= 400, "{response}");
    ensure!(!agent.setup().repository().join("sent").exists(), "something was written");
    assert_serves(&agent)
}

#[test]
fn a_provider_that_cannot_be_had_is_shown_not_hidden() -> Result<()> {
    let agent = setup_with_add()?
        .model("wants-gpu", &onnx::add_one(4), "providers = [\"cuda\", \"cpu\"]\n")?
        .start()?;
    let status = agent.status()?;
    let models = status["models"].as_array().context("no models")?;
    let model = models.iter().find(|model| model["name"] == "wants-gpu").context("not there")?;
    // With a CUDA build and a GPU it runs there; anywhere else the fallback is named with its reason.
    if model["provider"] == "cpu" {
        let fallback = &model["fallbacks"][0];
        ensure!(fallback[0] == "cuda" && fallback[1].as_str().is_some_and(|why| !why.is_empty()), "{model}");
        ensure!(agent.log().contains("cuda"), "the fallback is not in the log");
    } else {
        ensure!(model["provider"] == "cuda", "{model}");
    }
    Ok(())
}
