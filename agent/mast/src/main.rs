//! `mast`: the inference agent of a modular telco site.
//!
//! Read [`app`] first: it builds the agent from its configuration, starts its tasks and stops them in order.
//! Everything else here is the command line around it.

#![forbid(unsafe_code)]

mod app;
mod cli;
mod config;
#[cfg(test)]
mod deploy_tests;
mod doctor;
mod exit;
mod logging;
mod status;
mod traces;

use std::os::unix::process::CommandExt as _;
use std::process::{Command as Process, ExitCode};
use std::time::Duration;

use clap::Parser as _;
use tokio::runtime::{Builder, Runtime};

use crate::app::{App, Signals};
use crate::cli::{Cli, Command, RunArgs, UplinkArgs};
use crate::config::{Config, LogConfig};
use crate::exit::{Exit, chain};

/// Tasks that still run when the agent has ended in order (a blocked disk) get this long.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let exit = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Uplink(args) => uplink(&args),
        Command::Worker(args) => cli::worker::run(&args),
        Command::Infer(args) => cli::infer::run(&args),
        Command::Models(args) => cli::models::run(&args),
        Command::Status(args) => cli::status::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Log(args) => cli::log::run(&args),
        Command::Keys(args) => cli::keys::run(&args),
    };
    exit.code()
}

fn run(args: &RunArgs) -> Exit {
    if let Err(error) = fence_telemetry() {
        return fail(Exit::NoRuntime, "cannot start again with ORT_DISABLE_TELEMETRY=1", &error);
    }
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => return fail(Exit::BadConfig, "configuration", &error),
    };
    let log = match logging::init(&config.log) {
        Ok(log) => log,
        Err(error) => return fail(Exit::BadConfig, "configuration", &error),
    };
    let runtime = match Builder::new_multi_thread().enable_all().thread_name("mast").build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(Exit::Failed, "cannot start threads", &error),
    };
    end(runtime, async {
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(error) => return fail(Exit::Failed, "cannot listen for signals", &error),
        };
        let app = match App::build(config, log).await {
            Ok(app) => app,
            Err(error) => {
                tracing::error!(error = chain(&error), "the agent cannot start");
                return error.exit();
            }
        };
        let mut running = app.spawn();
        let cause = running.wait(&mut signals).await;
        running.end(cause, &mut signals).await
    })
}

/// The child with the way out. Its socket is its stdin, its log is the parent's stderr.
fn uplink(args: &UplinkArgs) -> Exit {
    let log = LogConfig { level: args.log_level.clone(), format: args.log_format, ..LogConfig::default() };
    if let Err(error) = logging::init(&log) {
        return fail(Exit::BadConfig, "mast uplink is started by mast run, never by hand", &error);
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(Exit::Failed, "cannot start threads", &error),
    };
    end(runtime, async {
        let done = match link::socket_from_stdin() {
            Ok(socket) => link::run_uplink(socket).await,
            Err(error) => {
                return fail(Exit::BadConfig, "mast uplink is started by mast run, never by hand", &error);
            }
        };
        match done {
            Ok(()) => Exit::Ok,
            Err(error) => {
                tracing::error!(error = chain(&error), "the uplink ended");
                Exit::Failed
            }
        }
    })
}

fn end(runtime: Runtime, work: impl Future<Output = Exit>) -> Exit {
    let exit = runtime.block_on(work);
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    exit
}

/// Sees to it that `ORT_DISABLE_TELEMETRY=1` is in the environment before any thread exists, by starting this
/// program again in the same process if it is not. The runtime reads it when its library is loaded; that the
/// library has no uploader at all is checked there, this is the second fence.
fn fence_telemetry() -> std::io::Result<()> {
    const FENCE: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(FENCE).is_some_and(|value| value == "1") {
        return Ok(());
    }
    let error =
        Process::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(FENCE, "1").exec();
    Err(error)
}

/// For what happens before there is a log: one line on stderr.
#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn fail(exit: Exit, what: &str, error: &(dyn std::error::Error + 'static)) -> Exit {
    eprintln!("mast: {what}: {}", chain(error));
    exit
}
