//! `cargo xtask COMMAND`: everything that a developer or CI does with the repository. One file per command.
//!
//! Shared: [`cache`] (the git-ignored folder, digests, stamps), [`python`] (venv, pip, recipes), [`step`] (progress).
//! Nothing here is shipped.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod cache;
mod catalog;
mod check;
mod demo;
mod deny;
mod fuzz;
mod models;
mod package;
mod prove;
mod python;
mod runtime;
mod schemathesis;
mod setup;
mod step;
mod system;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The repository's commands")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch ONNX Runtime, Python packages and photos, and build the models (idempotent)
    Setup(setup::Args),
    /// Build, verify or recalibrate models; recompute golden cases
    Models(models::Args),
    /// The whole road once: photos, policy, a broker that is killed, a hub that counts
    Demo(demo::Args),
    /// Everything that must hold before a change lands
    Test(test::Args),
    /// Measure against the floors of this machine
    Bench(bench::Args),
    /// Long proofs, as long as they are given
    Prove(prove::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Prove(args) => prove::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
