use std::fmt;
use std::str::FromStr;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    TensorRt,
    Cuda,
    Wgpu,
    Cpu,
}

impl Provider {
    pub const ALL: [Provider; 4] = [Provider::TensorRt, Provider::Cuda, Provider::Wgpu, Provider::Cpu];

    /// The word in configuration, logs, metrics and replies.
    pub const fn name(self) -> &'static str {
        match self {
            Provider::TensorRt => "tensorrt",
            Provider::Cuda => "cuda",
            Provider::Wgpu => "wgpu",
            Provider::Cpu => "cpu",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The word is no provider of Mast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a provider: expected tensorrt, cuda, wgpu or cpu")]
pub struct UnknownProvider;

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|provider| provider.name() == name).ok_or(UnknownProvider)
    }
}

/// The physical device behind a provider, as probed: never assumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// "cpu", "gpu:0", ...
    pub id: String,
    /// The vendor's name for it: "AMD EPYC 7B13", "NVIDIA L4".
    pub name: String,
}

/// One provider that was tried at load, in the order of the model's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub provider: Provider,
    /// Why it could not be used; `None` when it could.
    pub failure: Option<String>,
}

/// The nodes of a model that one provider runs, read back from the runtime after load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub provider: Provider,
    pub nodes: usize,
    /// Operator types with their counts, most frequent first.
    pub operators: Vec<(String, usize)>,
}

/// What a loaded model really runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The provider that runs most of the nodes that compute.
    pub provider: Provider,
    pub device: Device,
    pub attempts: Vec<Attempt>,
    pub assignments: Vec<Assignment>,
}
