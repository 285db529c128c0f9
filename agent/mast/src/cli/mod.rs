//! The command line: one binary for the daemon and for the person at the box.

pub(crate) mod client;
pub(crate) mod infer;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod models;
pub(crate) mod status;
pub(crate) mod worker;

mod catalog;
mod findings;
mod reply;
mod report;
pub(crate) mod table;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;

use self::client::{Client, ClientError};
use crate::config::default_data_dir;
use crate::exit::{Exit, chain};

/// Mast, the inference agent of a modular telco site.
#[derive(Debug, Parser)]
#[command(name = "mast", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the agent: serve the models of a folder, within policy, and report to the hub if one is configured
    Run(RunArgs),
    /// Send one inference to the running agent: a photo, a text, or a v2 JSON request
    Infer(infer::InferArgs),
    /// What is loaded, and what really runs each model
    Models(ConnectArgs),
    /// What runs where, queues, outbox and broker
    Status(ConnectArgs),
    /// Check this box: library, providers, ports, disk, clock, broker, certificates. Works with the daemon down
    Doctor(crate::doctor::DoctorArgs),
    /// The log level of the running agent: what it is, or another one
    Log(log::LogArgs),
    /// Keys for the clients of the inference API
    Keys(keys::KeysArgs),
    /// The process with the way out; started by `mast run`, never by hand
    #[command(hide = true)]
    Uplink(UplinkArgs),
    /// Models in a process of their own; started by `mast run`, never by hand
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct UplinkArgs {
    #[arg(long)]
    pub(crate) log_level: String,
    #[arg(long)]
    pub(crate) log_format: crate::config::LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Configuration file; without one, the defaults of deploy/config/mast.toml
    #[arg(long, env = "MAST_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder of models: MODEL/VERSION/model.onnx
    #[arg(long)]
    pub(crate) model_repository: Option<PathBuf>,
    /// Who says what is loaded, as Triton's: none, poll or explicit (default explicit)
    #[arg(long)]
    pub(crate) model_control_mode: Option<String>,
    /// With explicit: a model to load at the start, more than once for more; `*` is every model, the default
    #[arg(long = "load-model")]
    pub(crate) load_models: Vec<String>,
    /// Where the agent keeps its control socket, outbox and caches (default /var/lib/mast for root, else
    /// ~/.local/state/mast)
    #[arg(long, env = "MAST_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the inference API (default 127.0.0.1:8000)
    #[arg(long)]
    pub(crate) http: Option<SocketAddr>,
    /// Address of the same API over gRPC (default 127.0.0.1:8001)
    #[arg(long)]
    pub(crate) grpc: Option<SocketAddr>,
    /// Address of /metrics (default 127.0.0.1:8002)
    #[arg(long)]
    pub(crate) metrics: Option<SocketAddr>,
}

/// How a command reaches the running agent.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Data directory of the agent, where its control socket is (default /var/lib/mast for root, else
    /// ~/.local/state/mast)
    #[arg(long, env = "MAST_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs a command's work on this thread.
pub(crate) fn block_on(work: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => complain(&error),
    }
}

/// Asks the running agent for `path` and prints the answer: as it is with `--json`, else as `show` words it.
fn ask<T: DeserializeOwned>(
    args: &ConnectArgs,
    path: &str,
    limit: Duration,
    show: impl FnOnce(&T) -> String,
) -> Exit {
    let client = Client::over_socket(&args.data_dir.clone().unwrap_or_else(default_data_dir));
    block_on(async {
        match client.get_json::<Value>(path, limit).await {
            Ok(answer) if args.json => print(format!("{answer:#}\n").as_bytes()),
            Ok(answer) => match serde_json::from_value(answer) {
                Ok(answer) => print(show(&answer).as_bytes()),
                Err(source) => complain(&ClientError::Unreadable { path: path.to_owned(), source }),
            },
            Err(error) => complain(&error),
        }
    })
}

/// Says on stderr why a command failed.
fn complain(error: &(dyn std::error::Error + 'static)) -> Exit {
    // There is nowhere left to report that stderr is closed.
    writeln!(io::stderr(), "mast: {}", chain(error)).ok();
    Exit::Failed
}

/// Writes what a command found; a reader that went away (`| head`) is no failure of the command.
fn print(text: &[u8]) -> Exit {
    match io::stdout().write_all(text) {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(error) => complain(&error),
    }
}
