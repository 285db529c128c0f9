use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{
    Batch, BufferMut, Device, EngineError, LoadError, Outputs, Placement, Provider, Signature, Step, Tensor,
};

/// One physical device: owns its memory, caches and budget, and loads models into engines.
pub trait Backend: Send + Sync + fmt::Debug {
    fn device(&self) -> Device;

    /// Providers this backend can be asked for; which of them work is found out at load.
    fn providers(&self) -> &[Provider];

    /// Loads a model. Blocking; called from a thread that may block.
    ///
    /// # Errors
    /// [`LoadError`], when no provider of `options.providers` can run the model as `options` demands.
    fn load(&self, source: &ModelSource, options: &LoadOptions) -> Result<Loaded, LoadError>;

    /// Memory in use where this backend's engines live. Read before and after a load, it is what a model takes
    /// that cannot tell itself ([`Engine::footprint`]); `None` where it cannot be known.
    fn used(&self) -> Option<Footprint> {
        None
    }
}

/// Memory that one engine reads without another copy.
pub trait Memory: Send + Sync + fmt::Debug {
    /// `len` zeroed bytes. Never fails: what has no room there is on the heap, and is copied later.
    fn allocate(&self, len: usize) -> BufferMut;
}

/// Where the runtime may put one output of a whole batch.
#[derive(Debug)]
pub struct Place {
    /// The shape the output will have, batch axis included.
    pub shape: Vec<usize>,
    /// Exactly the bytes of that shape.
    pub memory: BufferMut,
}

/// Bytes that a loaded model takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    pub host_bytes: u64,
    pub device_bytes: u64,
}

/// Where an engine runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// In the daemon's own process.
    #[default]
    None,
    /// In a worker process, which a crash ends alone.
    Process,
}

impl Isolation {
    /// The word in configuration, logs and replies.
    pub const fn name(self) -> &'static str {
        match self {
            Isolation::None => "none",
            Isolation::Process => "process",
        }
    }
}

/// Where a model's bytes are.
#[derive(Debug, Clone)]
pub struct ModelSource {
    pub name: String,
    pub version: u64,
    /// The `.onnx` file; external data files lie beside it.
    pub path: PathBuf,
}

/// What the model's own configuration asks of the engine.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// In order of preference.
    pub providers: Vec<Provider>,
    /// The load fails unless this provider runs every node but shape arithmetic.
    pub require: Option<Provider>,
    /// Threads inside one operator; 0 lets the backend choose.
    pub threads: usize,
    /// Whether idle threads spin; `None` lets the backend choose by the number of cores.
    pub spinning: Option<bool>,
    /// Device memory the provider's arena may use; `None` is no limit.
    pub device_memory_limit_bytes: Option<u64>,
    /// `None` lets the agent's own setting decide.
    pub isolation: Option<Isolation>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            providers: vec![Provider::TensorRt, Provider::Cuda, Provider::Cpu],
            require: None,
            threads: 0,
            spinning: None,
            device_memory_limit_bytes: None,
            isolation: None,
        }
    }
}

/// A model that serves, and perhaps a better engine that still has to be built.
pub struct Loaded {
    pub engine: Box<dyn Engine>,
    /// A build that takes minutes (TensorRT). It runs beside the serving engine, which is replaced when done.
    pub pending: Option<PendingBuild>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("engine", &self.engine).field("pending", &self.pending).finish()
    }
}

type Build = Box<dyn FnOnce(&BuildProgress) -> Result<Box<dyn Engine>, LoadError> + Send>;

/// An engine that can be built in the background.
pub struct PendingBuild {
    pub provider: Provider,
    progress: Arc<BuildProgress>,
    build: Build,
}

impl PendingBuild {
    pub fn new(
        provider: Provider,
        build: impl FnOnce(&BuildProgress) -> Result<Box<dyn Engine>, LoadError> + Send + 'static,
    ) -> Self {
        Self { provider, progress: Arc::default(), build: Box::new(build) }
    }

    /// What the build has done so far; may be read while [`PendingBuild::run`] runs on another thread.
    pub fn progress(&self) -> Arc<BuildProgress> {
        Arc::clone(&self.progress)
    }

    /// Builds; minutes. Run it on a thread of its own.
    ///
    /// # Errors
    /// [`LoadError::Build`] and the other load errors; the serving engine is not touched.
    pub fn run(self) -> Result<Box<dyn Engine>, LoadError> {
        (self.build)(&self.progress)
    }
}

impl fmt::Debug for PendingBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingBuild").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// Subgraphs done so far of a build; the total where the builder knows it.
#[derive(Debug, Default)]
pub struct BuildProgress {
    done: AtomicU32,
    total: AtomicU32,
}

impl BuildProgress {
    pub fn set(&self, done: u32, total: Option<u32>) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total.unwrap_or(0), Ordering::Relaxed);
    }

    /// (done, total when known)
    pub fn get(&self) -> (u32, Option<u32>) {
        let total = self.total.load(Ordering::Relaxed);
        (self.done.load(Ordering::Relaxed), (total > 0).then_some(total))
    }
}

/// Called with the reason, which is for the site's own log.
pub type OnLost = Box<dyn FnOnce(&str) + Send>;

/// Names a member of a batch, and the state an engine keeps for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// One loaded model. Synchronous: it is owned and driven by one thread.
pub trait Engine: Send + fmt::Debug {
    fn signature(&self) -> &Signature;

    /// Where the model really runs, read back from the runtime.
    fn placement(&self) -> &Placement;

    /// Runs stateless members to their end. One row of outputs per member, in the members' order.
    ///
    /// # Errors
    /// [`EngineError`] for the whole batch; the engine stays usable unless it is
    /// [`EngineError::DeviceLost`].
    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError>;

    /// As [`Engine::run`], with a place per output for those whose shape is known before. What the engine could
    /// put there lies there afterwards, and is otherwise wherever the engine had it: a place saves a copy, no more.
    ///
    /// # Errors
    /// As [`Engine::run`].
    fn run_into(&mut self, batch: &Batch, _places: Vec<Option<Place>>) -> Result<Vec<Outputs>, EngineError> {
        self.run(batch)
    }

    /// Bytes of device or host memory that one member costs while it is in a batch.
    fn member_bytes(&self, inputs: &[Tensor]) -> u64 {
        inputs.iter().map(|tensor| u64::try_from(tensor.data().len()).unwrap_or(u64::MAX)).sum()
    }

    /// Another engine over the same loaded weights, to run beside this one on a thread of its own; `None` where
    /// the backend cannot share them.
    fn share(&self) -> Option<Box<dyn Engine>> {
        None
    }

    /// What the engine takes now, where it can be told exactly: in a process of its own.
    fn footprint(&self) -> Option<Footprint> {
        None
    }

    /// `tell` is called when the engine is lost, also while it has nothing to run, so that it can be loaded again
    /// before the next request comes. At most once, from a thread of the backend that it must not hold up, and perhaps
    /// beside a run that reports the same; never after the engine was dropped. The default cannot tell.
    fn on_lost(&self, _tell: OnLost) {}

    /// Where inputs should lie for this engine; `None` is the heap.
    fn memory(&self) -> Option<Arc<dyn Memory>> {
        None
    }

    /// Begins state for a member, anew where it has some; it may take part in every [`Engine::step`] until it is
    /// closed.
    ///
    /// # Errors
    /// [`EngineError::Stateless`] for models without state.
    fn open(&mut self, _member: MemberId) -> Result<(), EngineError> {
        Err(EngineError::Stateless { operation: "open" })
    }

    /// One step for the given members, one of `steps` each; members may join and leave between steps.
    ///
    /// # Errors
    /// [`EngineError::Stateless`] for models without state. No state was changed by a step that failed.
    fn step(&mut self, _batch: &Batch, _steps: &[Step]) -> Result<Vec<Outputs>, EngineError> {
        Err(EngineError::Stateless { operation: "step" })
    }

    /// Ends a member's state; unknown members are fine.
    fn close(&mut self, _member: MemberId) {}
}

/// Runs the parts of a model that another backend lacks, on the CPU.
pub trait SubgraphRunner: Send + Sync + fmt::Debug {
    /// Loads a model that is only in memory (an ONNX protobuf).
    ///
    /// # Errors
    /// [`LoadError`], when the runtime refuses it.
    fn load_subgraph(&self, model: &[u8]) -> Result<Box<dyn Engine>, LoadError>;
}
