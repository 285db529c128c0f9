use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{BufferMut, Footprint, Memory, Placement, Provider, Signature};

use crate::ModelConfig;

/// Where a model is in its life, in the words of the repository index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Loading,
    Ready,
    /// Serves, while a better engine is built beside it.
    Building,
    Unloading,
    Unavailable,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            State::Loading => "LOADING",
            State::Ready => "READY",
            State::Building => "BUILDING",
            State::Unloading => "UNLOADING",
            State::Unavailable => "UNAVAILABLE",
        }
    }

    pub const fn is_serving(self) -> bool {
        matches!(self, State::Ready | State::Building)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A loaded model as it is now. Made of shared parts, so it costs no copies.
#[derive(Debug, Clone)]
pub struct ModelView {
    pub name: Arc<str>,
    pub version: u64,
    pub state: State,
    /// As clients see it: with the dims of `config.pbtxt`, and without what the agent gives itself.
    pub signature: Arc<Signature>,
    pub config: Arc<ModelConfig>,
    pub placement: Arc<Placement>,
    pub building: Option<BuildView>,
    /// The versions that are served, ascending.
    pub versions: Vec<u64>,
    /// The model's folder, which holds `model.toml` and label files.
    pub dir: Arc<Path>,
    /// What of the configuration is not as its owner wrote it.
    pub warnings: Arc<[String]>,
    /// What the model was measured to take.
    pub footprint: Footprint,
    /// Where the engine reads its inputs in place.
    pub memory: Option<Arc<dyn Memory>>,
}

impl ModelView {
    /// Memory for an input of `len` bytes, which the engine then reads in place.
    pub fn allocate(&self, len: usize) -> BufferMut {
        self.memory.as_ref().map_or_else(|| BufferMut::heap(len), |memory| memory.allocate(len))
    }
}

/// A build that runs beside a serving model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildView {
    pub provider: Provider,
    pub elapsed: Duration,
    pub done: u32,
    pub total: Option<u32>,
}

/// One row of the repository index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    pub name: String,
    /// `None` where no version is known, such as a folder without one.
    pub version: Option<u64>,
    pub state: State,
    /// Empty when there is nothing to say.
    pub reason: String,
}

/// What the start made of the repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadSummary {
    pub ready: Vec<String>,
    /// Name and reason.
    pub failed: Vec<(String, String)>,
}

/// How full the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    pub buffered_bytes: u64,
    pub buffered_limit_bytes: u64,
    /// Accepted and not answered yet, over all models.
    pub pending_requests: u64,
}

/// What may come with a request to load a model (Triton, "model repository extension", Load).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadParameters {
    /// `config`: a model configuration as JSON, which stands for `config.pbtxt` until the next load.
    pub config: Option<String>,
    /// The names of parameters `file:…`, which are refused.
    pub files: Vec<String>,
}
