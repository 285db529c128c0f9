//! Clients that nobody here wrote.

use std::process::Command;

use anyhow::{Result, ensure};
use harness::{Agent, Setup, onnx, workspace};

use crate::{assert_serves, setup_with_add};

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

fn agent() -> Result<Agent> {
    setup_with_add()?.model("slow", &onnx::slow(60), "")?.start()
}

/// tritonclient from PyPI: inference in JSON and binary, metadata, configuration, statistics, repository.
#[test]
fn tritonclient_http() -> Result<()> {
    let agent = agent()?;
    check(&agent, "tritonclient_http.py", &[agent.http.to_string()])?;
    assert_serves(&agent)
}

/// The same over gRPC, and streams, typed contents and health.
#[test]
fn tritonclient_grpc() -> Result<()> {
    let agent = agent()?;
    check(&agent, "tritonclient_grpc.py", &[agent.grpc.to_string()])?;
    assert_serves(&agent)
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
