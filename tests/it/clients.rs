//! Clients that nobody here wrote.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Result, ensure};
use harness::{Agent, Setup, onnx, workspace};

use crate::setup_with_add;

/// Runs a program of tests/cases, which ends with "all checks held".
fn check(agent: &Agent, program: &str, addresses: &[String]) -> Result<()> {
    let output = Command::new(workspace::python()?)
        .arg("-B")
        .arg(workspace::root().join("tests/cases").join(program))
        .args(addresses)
        .output()?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}\n{}", agent.log());
    ensure!(said.trim_end().ends_with("all checks held"), "{said}");
    Ok(())
}

const KEY: &str = "mast_of_the_tests_0123456789abcdefghijklmnopqrstuvwxyz";
/// `printf %s KEY | sha256sum`.
const SHA256: &str = "25abe65d60f7d0d7bd48c60f96b224d8b670c9e8da36fafe0133eea32f40018e";

/// An agent that asks every caller for a key and has one, of who may also administer.
fn agent() -> Result<Agent> {
    let setup = setup_with_add()?.model("slow", &onnx::slow(60), "")?;
    let keys = setup.dir().join("keys.toml");
    harness::files::write(&keys, format!("[[key]]\nid = \"tests\"\nsha256 = \"{SHA256}\"\nadmin = true\n"))?;
    std::fs::set_permissions(&keys, Permissions::from_mode(0o600))?;
    setup.config(&format!("[listen.keys]\nfile = {keys:?}")).start()
}

/// tritonclient from PyPI: inference in JSON and binary, metadata, configuration, statistics, repository; with a key and without.
#[test]
fn tritonclient_http() -> Result<()> {
    let agent = agent()?;
    check(&agent, "tritonclient_http.py", &[agent.http.to_string(), KEY.to_owned()])
}

/// The same over gRPC, and streams, typed contents and health.
#[test]
fn tritonclient_grpc() -> Result<()> {
    let agent = agent()?;
    check(&agent, "tritonclient_grpc.py", &[agent.grpc.to_string(), KEY.to_owned()])
}

/// A model from a repository of Triton's, with its state declared in config.pbtxt: sequences of many callers at once.
#[test]
fn tritonclient_sequences() -> Result<()> {
    let config = r#"
        name: "sum"
        backend: "onnxruntime"
        max_batch_size: 8
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
        sequence_batching {
          max_sequence_idle_microseconds: 60000000
          oldest { max_candidate_sequences: 64 }
          state [ {
            input_name: "before"
            output_name: "after"
            data_type: TYPE_FP32
            dims: [ 1 ]
            initial_state { name: "nothing" data_type: TYPE_FP32 dims: [ 1 ] zero_data: true }
          } ]
        }
    "#;
    let setup = Setup::new()?.model("sum", &onnx::sum_so_far(), "")?;
    harness::files::write(setup.repository().join("sum/config.pbtxt"), config)?;
    let agent = setup.start()?;
    check(&agent, "tritonclient_sequences.py", &[agent.http.to_string(), agent.grpc.to_string()])
}
