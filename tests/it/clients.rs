//! Clients that nobody here wrote.

use std::process::Command;

use anyhow::{Result, ensure};
use harness::workspace;

use crate::{assert_serves, setup_with_add};

/// tritonclient from PyPI: inference in JSON and binary, metadata, configuration, statistics, repository.
#[test]
fn tritonclient_http() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    let output = Command::new(workspace::python()?)
        .arg("-B")
        .arg(workspace::root().join("tests/cases/tritonclient_check.py"))
        .arg(agent.http.to_string())
        .output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}\n{}", agent.log());
    ensure!(said.trim_end().ends_with("all checks held"), "{said}");
    assert_serves(&agent)
}
