//! `cargo xtask prove schemathesis`: the daemon against docs/specs/openapi.yaml, by a tool nobody here wrote, with all of
//! its checks. What it is told besides the document is in `tests/cases/openapi/`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Setup, onnx, workspace};
use serde_json::{Value, json};

use crate::{cache, python};

/// Cases per operation in a short run, which then is the same every time.
const SMALL_EXAMPLES: &str = "20";
/// A run shorter than this is a short one.
const LONG: Duration = Duration::from_secs(60);

/// Fails with what schemathesis found and how to send it again.
pub(crate) fn schemathesis(programs: &Path, time: Duration) -> Result<Value> {
    let root = cache::root();
    let cases = root.join("tests/cases/openapi");
    let python = python::venv(&cache::dir()?, "schemathesis", &cases.join("requirements.txt"))?;
    let model = "max_batch_size = 8\n";
    let setup = Setup::new()?
        .program_at(programs.join("mast"))
        .model("add", &onnx::add_one(4), model)?
        .model("other", &onnx::add_one(4), model)?;
    for name in ["efficientnet-lite0-int8", "minilm-l6-v2-int8"] {
        symlink(workspace::models().join(name), setup.repository().join(name))?;
    }
    let agent = setup.start()?;
    let dir = tempfile::Builder::new().prefix("mast-openapi-").tempdir()?;
    let report = dir.path().join("report.json");
    let mut tool = Command::new(python.with_file_name("schemathesis"));
    tool.arg("--config-file").arg(cases.join("schemathesis.toml"));
    tool.arg("run")
        .arg(root.join("docs/specs/openapi.yaml"))
        .arg("--url")
        .arg(format!("http://{}", agent.http));
    tool.args(["--no-color", "--continue-on-failure", "--report", "json", "--report-json-path"]).arg(&report);
    tool.args(["--warnings", "off"]);
    if time < LONG {
        tool.args(["--max-examples", SMALL_EXAMPLES, "--generation-deterministic"]);
    } else {
        tool.args(["--generation-database", "none", "--max-time"]).arg(time.as_secs().to_string());
    }
    // It keeps files of its own in the folder it runs in.
    tool.current_dir(dir.path())
        .env("MAST_PHOTO", photo()?)
        .env("PYTHONPATH", &cases)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = tool.stdin(Stdio::null()).output().with_context(|| format!("cannot run {tool:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{tool:?} ended with {}\n{said}{errors}\n{}", output.status, agent.log());
    }
    let cases = number_before(&said, " generated").context("schemathesis counts no cases")?;
    let operations = number_before(&said, " selected").context("schemathesis counts no operations")?;
    ensure!(cases > 100, "only {cases} cases: {said}");
    Ok(json!({ "operations": operations, "cases": cases, "failures": 0 }))
}

/// One of the test photos.
fn photo() -> Result<PathBuf> {
    let photos = std::fs::read_dir(workspace::photos()).context("no photos: run `cargo xtask setup`")?;
    let mut jpegs: Vec<PathBuf> = photos.filter_map(|entry| Some(entry.ok()?.path())).collect();
    jpegs.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    jpegs.sort();
    jpegs.into_iter().next().context("no JPEG among the test photos")
}

fn number_before(text: &str, key: &str) -> Option<u64> {
    text.split_once(key)?.0.split_whitespace().next_back()?.parse().ok()
}
