use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::Tensor;

use crate::Labels;

/// Mast's own name for a request, unique within one run of the agent. Logs carry this one; the client's id
/// is echoed and never logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// The next id of this process.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// A tensor and the input or output it is for.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    pub name: String,
    pub tensor: Tensor,
}

/// One inference, as every front decodes it.
#[derive(Debug)]
pub struct Request {
    pub id: RequestId,
    pub model: String,
    /// `None` is the newest version that is ready.
    pub version: Option<u64>,
    pub labels: Labels,
    /// In any order; serve puts them into the model's.
    pub inputs: Vec<NamedTensor>,
    /// Names of the outputs that are wanted; empty for all.
    pub outputs: Vec<String>,
    /// How long the client waits at most, from now.
    pub timeout: Option<Duration>,
    /// 1 is the highest level of the model; 0 is its default level (Triton, "schedule_policy" extension).
    pub priority: u64,
    pub sequence: Option<Sequence>,
}

/// The request's place in a sequence, whose state the model keeps between requests (Triton, "sequence"
/// extension). Sequences of different tenants are different, whatever their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub id: SequenceId,
    /// The first request: the state begins anew.
    pub start: bool,
    /// The last request: the state is freed after it.
    pub end: bool,
}

/// As the client chose it. Never logged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SequenceId {
    Number(u64),
    Text(String),
}
