//! Runs before a version serves, beside the one with zeros (model_config.proto, `ModelWarmup`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use engine::DataType;

/// A request that is run before the model serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmupSample {
    pub name: String,
    /// Rows where the model batches; 0 is one without a batch axis.
    pub batch_size: usize,
    /// Runs.
    pub count: usize,
    /// By the name of the input.
    pub inputs: BTreeMap<String, WarmupInput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmupInput {
    pub datatype: DataType,
    /// Without the batch axis.
    pub dims: Vec<usize>,
    pub data: WarmupData,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WarmupData {
    Zero,
    Random,
    /// Of one row, in `warmup/` of the model's folder: raw values, or framed ones for BYTES.
    File(PathBuf),
}
