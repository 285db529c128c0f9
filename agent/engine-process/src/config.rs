use std::path::PathBuf;
use std::time::Duration;

use engine::Isolation;
use serde::Deserialize;

/// Where engines run, and what a worker may take. The section `[engines]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// "none" or "process", for models that do not say it themselves. The default is measured: docs/decisions/0009.
    #[serde(with = "isolation")]
    pub isolation: Isolation,
    /// Memory shared with each worker; pages cost nothing before they are used. What does not fit is copied.
    pub arena_bytes: usize,
    /// A worker that does not answer a batch within this time is ended.
    pub run_timeout_ms: u64,
    /// The same for a load or a build; a TensorRT build takes minutes.
    pub load_timeout_ms: u64,
    /// Private memory (`RLIMIT_DATA`) of one worker; unset is no limit. Address space is not limited: CUDA reserves
    /// far more of it than it uses.
    pub worker_memory_limit_bytes: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            isolation: Isolation::Process,
            arena_bytes: 64 << 20,
            run_timeout_ms: 60_000,
            load_timeout_ms: 1_800_000,
            worker_memory_limit_bytes: None,
        }
    }
}

impl Config {
    pub(crate) fn run_timeout(&self) -> Duration {
        Duration::from_millis(self.run_timeout_ms.max(1))
    }

    pub(crate) fn load_timeout(&self) -> Duration {
        Duration::from_millis(self.load_timeout_ms.max(1))
    }
}

/// The program that calls [`crate::serve_worker`] on its stdin. It gets no other environment than this, and its log
/// goes to the daemon's stderr.
#[derive(Debug, Clone, Default)]
pub struct WorkerProgram {
    /// `/proc/self/exe`: both ends of the socket are then of one binary, also after an upgrade.
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Handed to the worker's `make_backend` as it is.
    pub settings: String,
    /// Files and folders beside its models that a worker may read: the folder of the runtime's libraries.
    pub readable: Vec<PathBuf>,
    /// Folders a worker for a GPU may write: the cache of built engines.
    pub writable: Vec<PathBuf>,
}

/// `engine` knows no serde.
mod isolation {
    use engine::Isolation;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Isolation, D::Error> {
        let word = String::deserialize(from)?;
        let known = [Isolation::None, Isolation::Process];
        known
            .into_iter()
            .find(|isolation| isolation.name() == word)
            .ok_or_else(|| D::Error::unknown_variant(&word, &["none", "process"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_read() {
        let read = |text: &str| serde_json::from_str::<Config>(text);
        assert_eq!(read("{}").unwrap(), Config::default());
        assert_eq!(read(r#"{"isolation":"none"}"#).unwrap().isolation, Isolation::None);
        assert_eq!(read(r#"{"isolation":"process"}"#).unwrap().isolation, Isolation::Process);
        assert!(read(r#"{"isolation":"thread"}"#).is_err() && read(r#"{"isolated":true}"#).is_err());
    }
}
