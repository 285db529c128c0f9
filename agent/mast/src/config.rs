//! Configuration: one TOML file and the arguments of `mast run`, read and checked before any port is opened.
//!
//! Each part owns its `Config`; this is their tree. `deploy/config/mast.toml` lists every key with its
//! default, and a test proves that the file and the code agree.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wire::Jurisdiction;

use crate::cli::RunArgs;
use crate::traces::TracesConfig;

/// The whole of `mast.toml`.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Default: [`default_data_dir`].
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) site: Option<SiteConfig>,
    pub(crate) policy: PolicyConfig,
    pub(crate) listen: front::Config,
    pub(crate) serve: serve::Config,
    pub(crate) onnxruntime: engine_ort::Config,
    pub(crate) engines: engine_process::Config,
    /// Without it nothing leaves the box, and no outbox is written.
    pub(crate) hub: Option<link::Config>,
    pub(crate) outbox: journal::StreamConfig,
    pub(crate) shutdown: ShutdownConfig,
    pub(crate) log: LogConfig,
    pub(crate) traces: TracesConfig,
}

/// Which box this is. The identifiers are words of the fleet's topics: `[a-z0-9._-]{1,64}`.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct SiteConfig {
    pub(crate) org: egress::Ident,
    pub(crate) region: egress::Ident,
    pub(crate) site: egress::Ident,
    #[serde(rename = "box")]
    pub(crate) box_id: egress::Ident,
    /// The law this box stands under: ISO 3166-1 (`DE`) or 3166-2 (`DE-BY`).
    pub(crate) jurisdiction: Jurisdiction,
}

#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PolicyConfig {
    /// The residency policy; without it, the built-in one that knows one local tenant.
    pub(crate) path: Option<PathBuf>,
}

/// How the agent ends after SIGTERM.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShutdownConfig {
    /// All of it; less than the unit's `TimeoutStopSec`.
    pub(crate) budget_ms: u64,
    /// Of that, what is kept for the last words to the hub.
    pub(crate) uplink_budget_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { budget_ms: 20_000, uplink_budget_ms: 3_000 }
    }
}

#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, or targets as in `info,mast_serve=debug`.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
    /// Identical lines within this time are counted instead of written.
    pub(crate) repeat_window_ms: u64,
}

#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text, repeat_window_ms: 10_000 }
    }
}

/// Why the agent will not start with this configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not a valid configuration", path.display())]
    Parse { path: PathBuf, source: toml::de::Error },
    #[error("{} is not a valid residency policy", path.display())]
    Policy { path: PathBuf, source: serve::Error },
    #[error("the configuration is wrong: {detail}")]
    Invalid { detail: String },
}

impl Config {
    /// Reads the file, if any, and lays the arguments over it.
    pub(crate) fn load(args: &RunArgs) -> Result<Self, ConfigError> {
        let mut config = match &args.config {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        if let Some(dir) = &args.data_dir {
            config.data_dir = Some(dir.clone());
        }
        if let Some(dir) = &args.model_repository {
            config.serve.model_repository.clone_from(dir);
        }
        if let Some(mode) = &args.model_control_mode {
            config.serve.model_control_mode = match mode.as_str() {
                "none" => serve::ModelControlMode::None,
                "poll" => serve::ModelControlMode::Poll,
                "explicit" => serve::ModelControlMode::Explicit,
                _ => {
                    let detail = "--model-control-mode is none, poll or explicit".to_owned();
                    return Err(ConfigError::Invalid { detail });
                }
            };
        }
        if !args.load_models.is_empty() {
            config.serve.load_models.clone_from(&args.load_models);
        }
        let set = |place: &mut SocketAddr, given: Option<SocketAddr>| *place = given.unwrap_or(*place);
        set(&mut config.listen.http, args.http);
        set(&mut config.listen.grpc, args.grpc);
        set(&mut config.listen.metrics, args.metrics);
        config.serve.site.jurisdiction = config.site.as_ref().map(|site| site.jurisdiction.clone());
        // The command line may run in another folder than the agent, and is told this path.
        let repository = &config.serve.model_repository;
        config.serve.model_repository = std::path::absolute(repository)
            .map_err(|source| ConfigError::Read { path: repository.clone(), source })?;
        config.validate()?;
        Ok(config)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| match gone(source.message()) {
            Some(detail) => ConfigError::Invalid { detail },
            None => ConfigError::Parse { path: path.to_owned(), source },
        })
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(default_data_dir)
    }

    /// The policy in force: the file's, or the built-in one.
    pub(crate) fn policy(&self) -> Result<serve::residency::Policy, ConfigError> {
        let Some(path) = &self.policy.path else { return Ok(serve::residency::Policy::local()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        serve::residency::Policy::parse(&text)
            .map_err(|source| ConfigError::Policy { path: path.clone(), source })
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |detail: String| ConfigError::Invalid { detail };
        self.listen.validate().map_err(|error| invalid(format!("listen.{}", crate::exit::chain(&error))))?;
        for (key, value) in [
            ("queue_limit", u64::try_from(self.serve.queue_limit).unwrap_or(u64::MAX)),
            ("buffered_limit_bytes", self.serve.buffered_limit_bytes),
        ] {
            if value == 0 {
                return Err(invalid(format!("serve.{key} must be at least 1")));
            }
        }
        if let Err(journal::Error::Config { reason }) = self.outbox.check() {
            return Err(invalid(format!("outbox.{reason}")));
        }
        if usize::try_from(self.outbox.record_limit_bytes)
            .is_ok_and(|limit| limit < egress::RECORD_LIMIT_BYTES)
        {
            let least = egress::RECORD_LIMIT_BYTES;
            return Err(invalid(format!(
                "outbox.record_limit_bytes must be at least {least}, the longest metric record"
            )));
        }
        self.traces.collector().map_err(invalid)?;
        if self.shutdown.uplink_budget_ms >= self.shutdown.budget_ms {
            return Err(invalid("shutdown.uplink_budget_ms must be less than shutdown.budget_ms".to_owned()));
        }
        if let Some(hub) = &self.hub {
            hub.validate().map_err(|error| invalid(crate::exit::chain(&error)))?;
            if self.site.is_none() {
                return Err(invalid("[hub] needs [site]: org, region, site, box, jurisdiction".to_owned()));
            }
        }
        Ok(())
    }
}

/// What took the place of a key that there is no longer.
fn gone(complaint: &str) -> Option<String> {
    complaint.starts_with("unknown field `allow_repository_control`").then(|| {
        "listen.allow_repository_control is gone: models are loaded and unloaded over the control socket, or over \
         http and grpc with a key that has admin = true ([listen.keys], mast keys new --admin)"
            .to_owned()
    })
}

/// `/var/lib/mast` for root, the state directory of the user otherwise (XDG Base Directory Specification).
pub(crate) fn default_data_dir() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/mast");
    }
    var("XDG_STATE_HOME")
        .or_else(|| var("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("mast")
}

#[cfg(test)]
mod tests;
