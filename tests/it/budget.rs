//! What models may take in memory, and what a model is told that does not fit.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use harness::{Setup, onnx};

const BUDGET: u64 = 512 << 20;

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_numbers() -> Result<()> {
    let setup = crate::setup_with_add()?.model("big", &onnx::add_one(4), "")?;
    // Its external data, with a hole instead of weights.
    let weights = setup.repository().join("big/1/weights.bin");
    File::create(&weights)?.set_len(2 * BUDGET)?;
    let agent = setup.config(&format!("[serve]\nmemory_budget_bytes = {BUDGET}")).start()?;
    let row = agent.index("big")?.first().cloned().context("not in the index")?;
    let reason = row["reason"].as_str().unwrap_or_default();
    let bytes = 2 * BUDGET + u64::try_from(onnx::add_one(4).len())?;
    for word in [&bytes.to_string(), &BUDGET.to_string(), "add version 1"] {
        ensure!(reason.contains(word), "{word} is not in: {reason}");
    }
    let answer = agent.load("big")?;
    ensure!(answer.status >= 400 && answer.error()?.contains(&BUDGET.to_string()), "{answer}");
    crate::assert_serves(&agent)?;
    std::fs::remove_file(weights)?;
    let answer = agent.load("big")?;
    ensure!(answer.status == 200, "without its weights it fits: {answer}");
    crate::assert_serves(&agent)
}

/// Its files are small; what it took when it ran is not.
#[test]
fn a_model_that_turns_out_to_be_bigger_is_ended_again() -> Result<()> {
    let setup = Setup::new()?.model("add", &onnx::add_one(4), "isolation = \"process\"\n")?;
    let agent = setup.config("[serve]\nmemory_budget_bytes = 65536").start()?;
    let row = agent.index("add")?.first().cloned().context("not in the index")?;
    let reason = row["reason"].as_str().unwrap_or_default();
    ensure!(row["state"] == "UNAVAILABLE" && reason.contains("measured"), "{row}");
    ensure!(agent.workers()?.is_empty(), "its worker is still there");
    Ok(())
}

/// Versions that were swapped out are not counted for ever.
#[test]
fn memory_that_is_given_back_is_there_for_the_next() -> Result<()> {
    let agent =
        crate::setup_with_add()?.config(&format!("[serve]\nmemory_budget_bytes = {BUDGET}")).start()?;
    for round in 0..6 {
        let answer = agent.unload("add")?;
        ensure!(answer.status == 200, "unload {round}: {answer}");
        let answer = agent.load("add")?;
        ensure!(answer.status == 200, "load {round}: {answer}");
    }
    crate::assert_serves(&agent)
}
