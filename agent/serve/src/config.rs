use std::path::PathBuf;

use serde::Deserialize;

use crate::residency::Site;

/// What the request path is given at start. Keys of the agent's configuration, section by section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `<repository>/<model>/<version>/model.onnx` and `<repository>/<model>/model.toml`.
    pub model_repository: PathBuf,
    /// Requests that may wait for one model; a model's own `queue_limit` comes first.
    pub queue_limit: usize,
    /// Bytes of all request bodies that are being read or queued, over all models.
    pub buffered_limit_bytes: u64,
    /// How long an unloaded model may finish its requests.
    pub unload_budget_ms: u64,
    /// No key of this section: the agent knows its site once and hands it in.
    #[serde(skip)]
    pub site: Site,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_repository: PathBuf::from("/var/lib/mast/models"),
            queue_limit: 128,
            buffered_limit_bytes: 256 << 20,
            unload_budget_ms: 10_000,
            site: Site::default(),
        }
    }
}
