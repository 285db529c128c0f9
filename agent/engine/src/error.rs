use crate::Provider;

/// Why a batch did not run. The text is for the site's own log and reply: it never leaves the site.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the requests of the batch differ in input {index}")]
    Shape { index: usize },
    #[error("the model gave {got} rows for a batch of {expected}: it does not batch along the first axis")]
    OutputRows { expected: usize, got: usize },
    #[error("the runtime refused the inputs: {detail}")]
    Input { detail: String },
    #[error("the runtime failed: {detail}")]
    Run { detail: String },
    #[error("the device is lost: {detail}")]
    DeviceLost { detail: String },
    #[error("the worker process ended: {detail}")]
    WorkerLost { detail: String },
    #[error("the engine panicked: {detail}")]
    Panicked { detail: String },
    #[error("the model keeps no state: it has no {operation}")]
    Stateless { operation: &'static str },
    #[error("the request was cancelled")]
    Cancelled,
}

impl EngineError {
    /// Whether the engine can run nothing more and has to be loaded again.
    pub const fn is_lost(&self) -> bool {
        matches!(self, EngineError::DeviceLost { .. } | EngineError::WorkerLost { .. })
    }

    /// One word for logs and counters. The text may quote values of the inputs and is for the client alone.
    pub const fn kind(&self) -> &'static str {
        match self {
            EngineError::Shape { .. } => "shape",
            EngineError::OutputRows { .. } => "output_rows",
            EngineError::Input { .. } => "input",
            EngineError::Run { .. } => "run",
            EngineError::DeviceLost { .. } => "device_lost",
            EngineError::WorkerLost { .. } => "worker_lost",
            EngineError::Panicked { .. } => "panicked",
            EngineError::Stateless { .. } => "stateless",
            EngineError::Cancelled => "cancelled",
        }
    }
}

/// Why a model did not load.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read the model")]
    Read {
        #[source]
        source: std::io::Error,
    },
    #[error("the runtime refused the model: {detail}")]
    Refused { detail: String },
    #[error("no provider of the list could load the model: {detail}")]
    NoProvider { detail: String },
    #[error("the model requires {required}, but {detail}")]
    Required { required: Provider, detail: String },
    #[error("the model uses {what}, which Mast does not serve")]
    Unsupported { what: String },
    #[error("the sequence settings do not fit the model: {detail}")]
    State { detail: String },
    #[error("the build of the {provider} engine failed: {detail}")]
    Build { provider: Provider, detail: String },
}
