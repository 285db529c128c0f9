//! What `GET /control/models` answers, as far as the command line reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use media::Plan;
use serde::Deserialize;
use serve::ModelConfig;

use super::client::{Client, ClientError};

pub(super) const PATH: &str = "/control/models";
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
pub(super) struct Catalog {
    pub(super) models: Vec<Model>,
    /// Every model of the repository, loaded or not.
    pub(super) index: Vec<Row>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// Absent where no version is known.
    #[serde(default)]
    pub(super) version: String,
    pub(super) state: String,
    #[serde(default)]
    pub(super) reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) version: u64,
    pub(super) dir: PathBuf,
    pub(super) placement: Placement,
    pub(super) building: Option<Building>,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
    #[serde(default)]
    pub(super) memory: Memory,
    /// `model.toml`; read only when it is needed, so that a newer agent can still be listed.
    pub(super) config: serde_json::Value,
}

/// What the model was measured to take.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Memory {
    pub(super) host_bytes: u64,
    pub(super) device_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Placement {
    pub(super) provider: String,
    pub(super) device: Device,
    pub(super) attempts: Vec<Attempt>,
    pub(super) assignments: Vec<Assignment>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Device {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Attempt {
    pub(super) provider: String,
    pub(super) failure: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Assignment {
    pub(super) provider: String,
    pub(super) nodes: usize,
}

#[derive(Debug, Deserialize)]
pub(super) struct Building {
    pub(super) provider: String,
    pub(super) elapsed_ms: u64,
    pub(super) done: u32,
    pub(super) total: Option<u32>,
}

/// What `mast infer` needs to know of a model: how a photo or a text becomes its input and what its outputs mean.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) plan: Plan,
}

impl Card {
    /// As the agent knows it.
    pub(super) async fn of_agent(client: &Client, model: &str) -> Result<Self, CardError> {
        let catalog: Catalog =
            client.get_json(PATH, TIMEOUT).await.map_err(|source| CardError::Agent { source })?;
        let Some(found) = catalog.models.into_iter().find(|found| found.name == model) else {
            let names = catalog.index.into_iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
            return Err(CardError::NotLoaded { model: model.to_owned(), names });
        };
        let config = serde_json::from_value(found.config)
            .map_err(|source| CardError::Unreadable { model: model.to_owned(), source })?;
        Self::new(&found.dir, &config)
    }

    /// As a folder of a repository says, for an agent on another machine.
    pub(super) fn of_dir(dir: &Path) -> Result<Self, CardError> {
        let path = dir.join("model.toml");
        let text =
            fs::read_to_string(&path).map_err(|source| CardError::Read { path: path.clone(), source })?;
        let config = ModelConfig::parse(&text).map_err(|source| CardError::Parse { path, source })?;
        Self::new(dir, &config)
    }

    fn new(dir: &Path, config: &ModelConfig) -> Result<Self, CardError> {
        let plan = Plan::read(dir, config.into());
        let plan = plan.map_err(|source| CardError::Plan { dir: dir.to_owned(), source })?;
        Ok(Self { plan })
    }
}

/// Why nothing is known about a model.
#[derive(Debug, thiserror::Error)]
pub(super) enum CardError {
    #[error(
        "the agent cannot be asked how a photo becomes this model's input; --model-dir can say it instead"
    )]
    Agent { source: ClientError },
    #[error("model '{model}' is not loaded; in the repository: {names}")]
    NotLoaded { model: String, names: String },
    #[error("the configuration of model '{model}' cannot be understood; is the agent of another version?")]
    Unreadable { model: String, source: serde_json::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is wrong", path.display())]
    Parse { path: PathBuf, source: serve::Error },
    #[error("the model's folder {} is wrong", dir.display())]
    Plan { dir: PathBuf, source: media::Error },
}
