use std::time::Duration;

use engine::{Device, Provider};

use crate::NamedTensor;

/// One part of a reply. An ordinary model sends exactly one, a stream many.
#[derive(Debug)]
pub struct Part {
    pub outputs: Vec<NamedTensor>,
    pub model_version: u64,
    pub ran: Ran,
    pub timings: Timings,
}

/// What really ran the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub provider: Provider,
    pub device: Device,
}

/// Where the time of a request went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// From acceptance into the model's queue to the start of its batch.
    pub queue: Duration,
    /// Forming the batch: choosing the members and ordering their tensors.
    pub batch: Duration,
    /// Inside the engine.
    pub compute: Duration,
    /// Rows of the whole batch this request was part of.
    pub batch_rows: usize,
}
