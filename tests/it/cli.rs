//! The command line, against a daemon that runs and against none.

use std::ffi::OsStr;

use anyhow::{Context, Result, ensure};
use harness::{files, run_mast};
use serde_json::Value;

use crate::{agent_with_add, setup_with_add};

#[test]
fn what_a_person_asks_a_running_agent() -> Result<()> {
    let agent = agent_with_add()?;
    let check = |args: &[&str], words: &[&str]| -> Result<()> {
        let output = agent.mast(args)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        for word in words {
            ensure!(said.contains(word), "{args:?} does not say \"{word}\":\n{said}");
        }
        Ok(())
    };
    let (http, metrics) = (agent.http.to_string(), agent.metrics.to_string());
    check(&["status"], &["ready", &http, &metrics, "add", "cpu"])?;
    check(&["models"], &["add", "READY", "cpu"])?;
    check(&["--version"], &["mast"])?;
    check(&["--help"], &["run", "infer", "models", "status", "doctor"])?;
    for command in ["status", "models"] {
        let output = agent.mast(&[command, "--json"])?;
        let value: Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("{command} --json"))?;
        ensure!(value.is_object() || value.is_array(), "{value}");
    }
    let request = agent.setup().dir().join("request.json");
    files::write(&request, r#"{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[0,1,2,3]}]}"#)?;
    let request = request.to_string_lossy();
    check(&["infer", "add", &request], &["cpu", "y"])?;
    let output = agent.mast(&["infer", "add", &request, "--json"])?;
    let value: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        value["provider"] == "cpu" && value["outputs"][0]["first"] == serde_json::json!([1.0, 2.0, 3.0, 4.0]),
        "{value}"
    );
    ensure!(value["timings_us"]["compute"].is_u64(), "{value}");
    Ok(())
}

#[test]
fn failures_are_said_and_counted_in_the_exit_code() -> Result<()> {
    let agent = agent_with_add()?;
    let request = agent.setup().dir().join("request.json");
    files::write(&request, r#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[0,1,2]}]}"#)?;
    let request = request.to_string_lossy().into_owned();
    let check = |args: &[&str], words: &[&str]| -> Result<()> {
        let output = agent.mast(args)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{args:?}: {} {said}", output.status);
        for word in words {
            ensure!(said.contains(word), "{args:?} does not say \"{word}\":\n{said}");
        }
        Ok(())
    };
    check(&["infer", "add", &request], &["x"])?;
    check(&["infer", "none", &request], &["none"])?;
    check(&["infer", "add", "no-such-file"], &["no-such-file"])?;
    check(&["infer", "add", &request, "--tenant", "stranger"], &["unknown-label"])?;
    check(&["infer", "add", &request, "--http", "127.0.0.1:1"], &["127.0.0.1:1"])
}

#[test]
fn without_a_daemon_the_message_says_so() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for command in ["status", "models"] {
        let output = run_mast(&[command], &[("MAST_DATA_DIR", dir.path().as_os_str())])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{command}: {}", output.status);
        ensure!(said.contains("does not run") && said.contains("mast run"), "{command}: {said}");
    }
    Ok(())
}

#[test]
fn doctor_with_the_daemon_up_and_down() -> Result<()> {
    let setup = setup_with_add()?;
    let runtime = harness::workspace::runtime_library()?;
    let down = run_mast(
        &[OsStr::new("doctor"), OsStr::new("--model-repository"), setup.repository().as_os_str()],
        &[("MAST_DATA_DIR", setup.data_dir().as_os_str()), ("ORT_DYLIB_PATH", runtime.as_os_str())],
    )?;
    let said = String::from_utf8_lossy(&down.stdout).into_owned();
    for word in ["ok", "1.28.0", "cpu"] {
        ensure!(said.contains(word), "doctor with the daemon down does not say {word}:\n{said}");
    }
    let agent = setup.start()?;
    let up = agent.mast(&["doctor", "--json"])?;
    let value: Value = serde_json::from_slice(&up.stdout).context("doctor --json")?;
    ensure!(!value.to_string().is_empty() && up.status.code().is_some(), "{value}");
    let missing = run_mast(
        &["doctor"],
        &[("ORT_DYLIB_PATH", OsStr::new("nowhere.so")), ("MAST_DATA_DIR", OsStr::new("/proc/nowhere"))],
    )?;
    ensure!(
        missing.status.code() == Some(1),
        "a box without a runtime is well: {}",
        String::from_utf8_lossy(&missing.stdout)
    );
    let said = String::from_utf8_lossy(&missing.stdout).into_owned();
    ensure!(said.contains("failed") && said.contains("nowhere.so"), "{said}");
    Ok(())
}
