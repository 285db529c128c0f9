//! The daemon driven from outside. One binary, one module per promise; what they share is the package's library, `harness`.
//!
//! Run through `cargo xtask test`, or `cargo build -p mast -p mast-tests && cargo test -p mast-tests` after `cargo xtask setup`.

#![forbid(unsafe_code)]

mod bad_input;
mod bad_start;
mod budget;
mod cli;
mod clients;
mod deploy;
mod disk_full;
mod golden;
mod infer;
mod lifecycle;
mod logs;
mod media;
mod no_hub;
mod outbox;
mod overload;
mod priorities;
mod processes;
mod refuse;
mod repository;
mod sequences;
mod telemetry;
mod traces;
mod triton_repository;
mod versions;
mod workers;

use anyhow::{Result, ensure};
use harness::{Agent, Setup, infer as body, onnx};

/// An agent that serves `add`: y = x + 1 over float32 [n, 4].
fn agent_with_add() -> Result<Agent> {
    setup_with_add()?.start()
}

fn setup_with_add() -> Result<Setup> {
    Setup::new()?.model("add", &onnx::add_one(4), "max_batch_size = 8\n")
}

/// The daemon answers rightly: asserted after everything that must not hurt it.
fn assert_serves(agent: &Agent) -> Result<()> {
    let response = agent.send_ok(&body::json("add", "x", &[1, 4], &[0.0, 1.0, 2.0, 3.0]))?;
    let values = body::first_output(&response)?;
    ensure!(values == [1.0, 2.0, 3.0, 4.0], "{values:?}");
    Ok(())
}
