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
    pub model_control_mode: ModelControlMode,
    /// How often [`ModelControlMode::Poll`] looks at the repository.
    pub poll_interval_ms: u64,
    /// What [`ModelControlMode::Explicit`] loads at the start; `*`, alone, is every model.
    pub load_models: Vec<String>,
    /// `max_batch_size` of a model that batches and whose configuration is left to us (`ModelConfig::complete`);
    /// 0 completes nothing.
    pub default_max_batch_size: usize,
    /// Host memory that all loaded models may take together; a load that would be over is refused. `None` is no
    /// limit: models are measured all the same.
    pub memory_budget_bytes: Option<u64>,
    /// Of all devices together, like `memory_budget_bytes`.
    pub device_memory_budget_bytes: Option<u64>,
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
            model_control_mode: ModelControlMode::Explicit,
            poll_interval_ms: 15_000,
            load_models: vec!["*".to_owned()],
            default_max_batch_size: 4,
            memory_budget_bytes: None,
            device_memory_budget_bytes: None,
            site: Site::default(),
        }
    }
}

/// Who says which models are loaded (Triton, `--model-control-mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelControlMode {
    /// All at the start, and then nobody.
    None,
    /// The repository: what changes there is loaded and unloaded.
    Poll,
    /// Requests to load and unload; at the start, `load_models`.
    #[default]
    Explicit,
}
