use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use engine::{
    Backend, BuildProgress, Device, Engine, LoadError, LoadOptions, Loaded, ModelSource, PendingBuild,
    Placement, Provider,
};

use crate::Error;
use crate::config::{Config, WorkerProgram};
use crate::engine::{Model, ProcessEngine};
use crate::frame::{
    Fence, FenceReport, FenceState, FrameError, Load, LoadedModel, SandboxReport, Start, ToDaemon, ToWorker,
};
use crate::process::Worker;
use crate::socket::Lane;

/// Loads models into worker processes: those of a GPU into one, so that they share its context and its memory, each
/// other model into one of its own, so that its unload gives back all it took.
#[derive(Debug)]
pub struct ProcessBackend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    program: WorkerProgram,
    /// The processor first; then the GPUs.
    devices: Vec<Device>,
    providers: Vec<Provider>,
    workers: Mutex<Workers>,
}

#[derive(Debug, Default)]
struct Workers {
    /// By the device's id. Locked while one starts: a second load waits for the same worker.
    shared: HashMap<String, Arc<Mutex<Weak<Worker>>>>,
    all: Vec<(Weak<Worker>, String)>,
    sandbox: Option<SandboxReport>,
    started: u64,
}

/// A running worker, for `mast status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    pub pid: u32,
    /// The model it was started for; others may share it.
    pub model: String,
    pub private_bytes: Option<u64>,
}

impl ProcessBackend {
    /// `devices` are the machine's own, as the daemon probed them, the processor first: a worker's word on where it
    /// runs is taken as a choice among them.
    pub fn new(
        config: Config,
        program: WorkerProgram,
        devices: Vec<Device>,
        providers: Vec<Provider>,
    ) -> Self {
        Self(Arc::new(Inner { config, program, devices, providers, workers: Mutex::default() }))
    }

    /// What the kernel gave the worker that was started last; `None` before the first.
    pub fn sandbox(&self) -> Option<SandboxReport> {
        self.0.lock().sandbox.clone()
    }

    /// The workers that run now.
    pub fn workers(&self) -> Vec<WorkerView> {
        let all: Vec<_> = self
            .0
            .lock()
            .all
            .iter()
            .filter_map(|(worker, model)| Some((worker.upgrade()?, model.clone())))
            .collect();
        let running = all.into_iter().filter(|(worker, _)| !worker.has_ended());
        let view = |(worker, model): (Arc<Worker>, String)| WorkerView {
            pid: worker.pid(),
            model,
            private_bytes: worker.private_bytes(),
        };
        running.map(view).collect()
    }

    /// Workers started so far.
    pub fn started(&self) -> u64 {
        self.0.lock().started
    }
}

impl Backend for ProcessBackend {
    fn device(&self) -> Device {
        self.0
            .devices
            .last()
            .cloned()
            .unwrap_or_else(|| Device { id: "cpu".to_owned(), name: "CPU".to_owned() })
    }

    fn providers(&self) -> &[Provider] {
        &self.0.providers
    }

    fn load(&self, source: &ModelSource, options: &LoadOptions) -> Result<Loaded, LoadError> {
        std::fs::File::open(&source.path).map_err(|source| LoadError::Read { source })?;
        let (worker, shared) = self.0.worker(source, options).map_err(|error| not_started(&error))?;
        let before = shared.then(|| worker.private_bytes()).flatten();
        let loading = || {
            let mut lane = worker.open()?;
            lane.set_limit(self.0.config.load_timeout())?;
            let load = Load { source: source.clone(), options: options.clone() };
            lane.send(&ToWorker::Load(load).encode(), None)?;
            let answer = ToDaemon::decode(lane.receive()?)?;
            Ok((lane, answer))
        };
        let (lane, answer) = loading().map_err(|error| ended(&worker, &error))?;
        let loaded = match answer {
            ToDaemon::Loaded(loaded) => loaded,
            ToDaemon::Refused(error) => return Err(error),
            _ => return Err(ended(&worker, &FrameError::OutOfTurn.into())),
        };
        let pending = loaded.pending;
        let engine = self.0.engine(&worker, lane, loaded, before.or(shared.then_some(0)))?;
        let pending = pending.map(|(provider, number)| {
            let (inner, worker) = (Arc::clone(&self.0), Arc::clone(&worker));
            PendingBuild::new(provider, move |progress| inner.build(&worker, number, progress))
        });
        Ok(Loaded { engine, pending })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker for a model, and whether it shares it.
    fn worker(&self, source: &ModelSource, options: &LoadOptions) -> Result<(Arc<Worker>, bool), Error> {
        let gpu = self.devices.iter().find(|device| device.id != "cpu");
        let wanted = options.providers.iter().take_while(|provider| **provider != Provider::Cpu);
        let on_gpu =
            wanted.into_iter().any(|provider| matches!(provider, Provider::TensorRt | Provider::Cuda));
        let Some(gpu) = gpu.filter(|_| on_gpu) else {
            return Ok((self.start(source, true)?, false));
        };
        let of_gpu = Arc::clone(self.lock().shared.entry(gpu.id.clone()).or_default());
        let mut known = of_gpu.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = known.upgrade().filter(|worker| !worker.has_ended()) {
            return Ok((worker, true));
        }
        let worker = self.start(source, false)?;
        *known = Arc::downgrade(&worker);
        Ok((worker, true))
    }

    fn start(&self, source: &ModelSource, one_model: bool) -> Result<Arc<Worker>, Error> {
        let mut readable = self.program.readable.clone();
        // A worker that others share serves models that are not there yet.
        readable.extend(folders(&source.path, if one_model { 1 } else { 3 }));
        let start = Start {
            one_model,
            settings: self.program.settings.clone(),
            readable,
            writable: if one_model { Vec::new() } else { self.program.writable.clone() },
            memory_limit_bytes: self.config.worker_memory_limit_bytes,
        };
        let worker = Arc::new(Worker::start(&self.program, &self.config, start)?);
        tracing::info!(model = %source.name, version = source.version, pid = worker.pid(), "worker started");
        let mut workers = self.lock();
        workers.started += 1;
        workers.all.retain(|(worker, _)| worker.strong_count() > 0);
        workers.all.push((Arc::downgrade(&worker), source.name.clone()));
        let first = workers.sandbox.is_none();
        workers.sandbox = Some(worker.sandbox().clone());
        drop(workers);
        if first {
            log(&worker.sandbox().fences);
        }
        Ok(worker)
    }

    fn engine(
        &self,
        worker: &Arc<Worker>,
        lane: Lane,
        loaded: LoadedModel,
        before: Option<u64>,
    ) -> Result<Box<dyn Engine>, LoadError> {
        let LoadedModel { signature, placement, fences, .. } = loaded;
        let placement = self.placement(placement).map_err(|error| ended(worker, &error.into()))?;
        if let Some(sandbox) = &mut self.lock().sandbox {
            sandbox.fences.retain(|known| fences.iter().all(|new| new.fence != known.fence));
            sandbox.fences.extend(fences);
        }
        let added = |before: u64| Some(worker.private_bytes()?.saturating_sub(before));
        let model = Model {
            worker: Arc::clone(worker),
            signature,
            placement,
            run_timeout: self.config.run_timeout(),
            added_bytes: before.and_then(added),
        };
        let engine = ProcessEngine::new(Arc::new(model), lane).map_err(|error| ended(worker, &error))?;
        Ok(Box::new(engine))
    }

    /// The worker's placement on a device of ours.
    fn placement(&self, mut placement: Placement) -> Result<Placement, FrameError> {
        let ours = self.devices.iter().find(|device| device.id == placement.device.id);
        placement.device = ours.cloned().ok_or(FrameError::Field { what: "device of this machine" })?;
        Ok(placement)
    }

    /// Builds the better engine in the worker that serves the present one.
    fn build(
        &self,
        worker: &Arc<Worker>,
        number: u64,
        progress: &BuildProgress,
    ) -> Result<Box<dyn Engine>, LoadError> {
        let building = || {
            let mut lane = worker.open()?;
            lane.set_limit(self.config.load_timeout())?;
            lane.send(&ToWorker::Build { number }.encode(), None)?;
            let begun = Instant::now();
            loop {
                // Progress alone is no answer.
                let limit = self.config.load_timeout();
                if begun.elapsed() > limit {
                    return Err(Error::Silent { limit_ms: limit.as_millis() });
                }
                match ToDaemon::decode(lane.receive()?)? {
                    ToDaemon::Progress { done, total } => progress.set(done, total),
                    answer => return Ok((lane, answer)),
                }
            }
        };
        let (lane, answer) = building().map_err(|error| ended(worker, &error))?;
        match answer {
            ToDaemon::Loaded(loaded) => self.engine(worker, lane, loaded, worker.private_bytes()),
            ToDaemon::Refused(error) => Err(error),
            _ => Err(ended(worker, &FrameError::OutOfTurn.into())),
        }
    }
}

/// The folder of a file, `up` levels above it, by name and by what links lead to.
fn folders(path: &Path, up: usize) -> impl Iterator<Item = PathBuf> {
    let named = path.ancestors().nth(up).map(Path::to_owned);
    let real = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
    named.into_iter().chain(real)
}

fn not_started(error: &Error) -> LoadError {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    LoadError::Refused { detail: format!("its worker did not start: {error}{}", source.unwrap_or_default()) }
}

/// A worker that broke off, or was made to.
fn ended(worker: &Worker, error: &Error) -> LoadError {
    let detail = match error {
        Error::Closed => format!("its worker is gone: {}", worker.why_ended()),
        error => {
            worker.kill();
            format!("its worker was ended: {error}")
        }
    };
    LoadError::Refused { detail: detail + &worker.last_words() }
}

fn log(fences: &[FenceReport]) {
    let with = |state: FenceState| {
        let named = fences.iter().filter(move |report| report.state == state);
        named.map(|report| report.fence.name()).collect::<Vec<_>>().join(" ")
    };
    tracing::info!(
        enforced = with(FenceState::Enforced),
        partial = with(FenceState::Partial),
        unavailable = with(FenceState::Unavailable),
        "sandbox of the workers"
    );
    for report in fences.iter().filter(|report| report.state != FenceState::Enforced) {
        // A limit that nobody asked for is no lack.
        if report.fence != Fence::MemoryLimit {
            tracing::warn!(fence = report.fence.name(), detail = report.detail, "a worker is less confined");
        }
    }
}
