//! `mast doctor`: is this box fit to run the agent? Works with the agent down.
//!
//! One file per check; each looks at one thing and answers with an [`Outcome`]. No check changes anything that
//! outlives it, and none sends a byte beyond this box: the broker is only connected to.

mod broker;
mod certificates;
mod clock;
mod configuration;
mod daemon;
mod data_dir;
mod listener_tls;
mod models;
mod policy;
mod ports;
mod providers;
mod runtime;

use std::io::{self, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::client::{Client, ClientError};
use crate::cli::{self, RunArgs};
use crate::config::{Config, default_data_dir};
use crate::exit::{Exit, chain};
use crate::status::Status;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Configuration file; without one, the defaults are checked
    #[arg(long, env = "MAST_CONFIG")]
    config: Option<PathBuf>,
    /// Data directory of the agent (default /var/lib/mast for root, else ~/.local/state/mast)
    #[arg(long, env = "MAST_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Folder of models: MODEL/VERSION/model.onnx
    #[arg(long)]
    model_repository: Option<PathBuf>,
    /// JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// What a check found. A cure is one sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok {
        text: String,
    },
    /// Works, but not as it should, or not for long.
    Warning {
        text: String,
        cure: String,
    },
    /// The agent cannot start or cannot do what it is configured for.
    Failed {
        text: String,
        cure: String,
    },
    /// Does not apply here, or cannot be found out.
    Skipped {
        text: String,
    },
}

impl Outcome {
    fn ok(text: impl Into<String>) -> Self {
        Self::Ok { text: text.into() }
    }

    fn warning(text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Warning { text: text.into(), cure: cure.into() }
    }

    fn failed(text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Failed { text: text.into(), cure: cure.into() }
    }

    fn skipped(text: impl Into<String>) -> Self {
        Self::Skipped { text: text.into() }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Ok { .. } => "ok",
            Self::Warning { .. } => "warning",
            Self::Failed { .. } => "failed",
            Self::Skipped { .. } => "skipped",
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Ok { text }
            | Self::Warning { text, .. }
            | Self::Failed { text, .. }
            | Self::Skipped { text } => text,
        }
    }

    fn cure(&self) -> Option<&str> {
        match self {
            Self::Warning { cure, .. } | Self::Failed { cure, .. } => Some(cure),
            Self::Ok { .. } | Self::Skipped { .. } => None,
        }
    }

    fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// Several findings of one check: the worst one decides, all are told.
    fn worst(findings: Vec<Outcome>) -> Self {
        let rank = |outcome: &Outcome| match outcome {
            Self::Skipped { .. } => 0,
            Self::Ok { .. } => 1,
            Self::Warning { .. } => 2,
            Self::Failed { .. } => 3,
        };
        let text = findings.iter().map(Outcome::text).collect::<Vec<_>>().join("; ");
        let mut cures: Vec<&str> = findings.iter().filter_map(Outcome::cure).collect();
        cures.dedup();
        let cure = cures.join("; ");
        match findings.iter().map(rank).max() {
            Some(3) => Self::Failed { text, cure },
            Some(2) => Self::Warning { text, cure },
            Some(1) => Self::Ok { text },
            _ => Self::Skipped { text },
        }
    }
}

/// What is examined.
#[derive(Debug)]
struct Subject {
    /// The configuration, or why there is none.
    config: Result<Config, String>,
    config_file: Option<PathBuf>,
    data_dir: PathBuf,
    /// What the running agent says about itself.
    agent: Result<Status, ClientError>,
}

impl Subject {
    /// The configuration, or what a check that needs it answers without it.
    fn config(&self) -> Result<&Config, Outcome> {
        self.config.as_ref().map_err(|_| Outcome::skipped("needs a configuration that can be read"))
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

type Check<'a> = (&'static str, Pin<Box<dyn Future<Output = Outcome> + 'a>>);

/// All checks, in reading order.
fn checks(subject: &Subject) -> Vec<Check<'_>> {
    vec![
        ("configuration", Box::pin(async { configuration::check(subject) })),
        ("policy", Box::pin(async { policy::check(subject) })),
        ("runtime library", Box::pin(async { runtime::check(subject) })),
        ("providers", Box::pin(async { providers::check(subject) })),
        ("ports", Box::pin(async { ports::check(subject) })),
        ("data directory", Box::pin(async { data_dir::check(subject) })),
        ("model repository", Box::pin(async { models::check(subject) })),
        ("clock", Box::pin(clock::check())),
        ("broker", Box::pin(broker::check(subject))),
        ("certificates", Box::pin(async { certificates::check(subject) })),
        ("listener tls", Box::pin(async { listener_tls::check(subject) })),
        ("agent", Box::pin(async { daemon::check(subject) })),
    ]
}

/// Runs every check. 0 if none failed.
pub(crate) fn run(args: &DoctorArgs) -> Exit {
    cli::block_on(async {
        let subject = examine(args).await;
        let mut out = io::stdout().lock();
        match report(&subject, args.json, &mut out).await {
            Ok(true) => Exit::Ok,
            // A reader that went away (`| head`) gets no verdict but this one.
            Ok(false) | Err(_) => Exit::Failed,
        }
    })
}

async fn examine(args: &DoctorArgs) -> Subject {
    let run_args = RunArgs {
        config: args.config.clone(),
        model_repository: args.model_repository.clone(),
        data_dir: args.data_dir.clone(),
        http: None,
        grpc: None,
        model_control_mode: None,
        load_models: Vec::new(),
        metrics: None,
    };
    let config = Config::load(&run_args).map_err(|error| chain(&error));
    let data_dir = match &config {
        Ok(config) => config.data_dir(),
        Err(_) => args.data_dir.clone().unwrap_or_else(default_data_dir),
    };
    let agent = Client::over_socket(&data_dir).get_json("/control/status", Duration::from_secs(3)).await;
    Subject { config, config_file: args.config.clone(), data_dir, agent }
}

/// Writes a line as soon as its check is done. Whether none failed.
async fn report(subject: &Subject, json: bool, out: &mut impl Write) -> io::Result<bool> {
    let mut lines = Vec::new();
    for (name, check) in checks(subject) {
        let line = Line { name, outcome: check.await };
        if !json {
            write_line(&line, out)?;
        }
        lines.push(line);
    }
    let ok = !lines.iter().any(|line| line.outcome.is_failed());
    if json {
        serde_json::to_writer_pretty(&mut *out, &serde_json::json!({ "ok": ok, "checks": lines }))?;
        writeln!(out)?;
    }
    Ok(ok)
}

fn write_line(line: &Line, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<7}  {:<16}  {}", line.outcome.word(), line.name, line.outcome.text())?;
    if let Some(cure) = line.outcome.cure() {
        writeln!(out, "{:27}cure: {cure}", "")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests;
