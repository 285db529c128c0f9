use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use engine::{
    BuildProgress, Engine, EngineThread, Footprint, LoadError, Memory, PendingBuild, Placement, Provider,
    States,
};
use wire::{Ran, chain};

use crate::error::Error;
use crate::model_config::Shown;
use crate::models::Lease;
use crate::schedule::{Bounds, Lost, ModelFeed, OnLost, Phase, Queue, Sequencing};
use crate::stats::Stats;
use crate::{BuildView, ModelConfig, ModelView, PriorityConfig, State};

/// One loaded version: its queue, its engine thread, and what there is to know about it.
///
/// Whoever holds one may push tickets. When the last holder lets go, the thread runs what is queued and ends:
/// so a version that was swapped out fails nobody.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: Arc<str>,
    pub(crate) version: u64,
    pub(crate) dir: Arc<Path>,
    /// The tensors as clients give and take them.
    pub(crate) shown: Arc<Shown>,
    pub(crate) config: Arc<ModelConfig>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) placed: Arc<Placed>,
    memory: Option<Arc<dyn Memory>>,
    /// Of every engine of this version, for a model that keeps state.
    states: Option<States>,
    warnings: Arc<[String]>,
    threads: Mutex<Vec<EngineThread>>,
    lease: Mutex<Option<Lease>>,
    footprint: Footprint,
}

/// What a model is made of before it has a thread.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: Arc<str>,
    pub(crate) version: u64,
    pub(crate) dir: Arc<Path>,
    pub(crate) config: ModelConfig,
    /// Of the agent, for a model that sets none.
    pub(crate) queue_limit: usize,
    pub(crate) stats: Arc<Stats>,
    pub(crate) placement: Placement,
    /// That the engines are wrapped by; `None` for a model that keeps no state.
    pub(crate) states: Option<States>,
    pub(crate) shown: Shown,
    /// What it takes of the memory budget.
    pub(crate) lease: Option<Lease>,
}

impl Model {
    /// One thread per engine, all of them fed from one queue.
    pub(crate) fn start(
        parts: Parts,
        engines: Vec<Box<dyn Engine>>,
        on_lost: OnLost,
    ) -> Result<Arc<Self>, Error> {
        let bounds = bounds(&parts.config, parts.queue_limit);
        Self::start_bounded(parts, bounds, engines, on_lost)
    }

    pub(crate) fn start_bounded(
        parts: Parts,
        bounds: Bounds,
        engines: Vec<Box<dyn Engine>>,
        on_lost: OnLost,
    ) -> Result<Arc<Self>, Error> {
        let Parts { name, version, dir, config, queue_limit: _, stats, placement, states, shown, lease } =
            parts;
        let queue = Arc::new(Queue::new(Arc::clone(&name), bounds, engines.len(), Arc::clone(&stats)));
        let placed = Arc::new(Placed::new(placement, Arc::clone(&stats)));
        let memory = engines.first().and_then(|engine| engine.memory());
        let shown = Arc::new(shown);
        let on_lost = Lost::new(on_lost);
        let mut threads = Vec::with_capacity(engines.len());
        for (index, engine) in engines.into_iter().enumerate() {
            let (queue, shown, placed) = (Arc::clone(&queue), Arc::clone(&shown), Arc::clone(&placed));
            let feed = ModelFeed::new(queue, shown, placed, version, index, on_lost.clone());
            threads.push(EngineThread::spawn(&format!("engine-{name}"), engine, feed));
        }
        let threads: Result<Vec<_>, _> = threads.into_iter().collect();
        // Those that did start end with the model.
        let threads = threads.inspect_err(|_| queue.stop()).map_err(|source| Error::Thread { source })?;
        let warnings = config.warnings.iter().chain(&shown.warnings).cloned().collect();
        Ok(Arc::new(Self {
            name,
            version,
            dir,
            shown,
            config: Arc::new(config),
            queue,
            stats,
            placed,
            memory,
            states,
            warnings,
            threads: Mutex::new(threads),
            footprint: lease.as_ref().map(Lease::footprint).unwrap_or_default(),
            lease: Mutex::new(lease),
        }))
    }

    /// Builds the better engine on a thread of its own, while this one serves.
    pub(crate) fn build(self: &Arc<Self>, pending: PendingBuild) {
        let provider = pending.provider;
        let started = Instant::now();
        self.placed.building(Building { provider, started, progress: pending.progress() });
        let model = Arc::downgrade(self);
        let build = move || {
            let built = catch_unwind(AssertUnwindSafe(|| pending.run())).unwrap_or_else(|_| {
                Err(LoadError::Build { provider, detail: "the builder panicked".to_owned() })
            });
            // A model that was unloaded meanwhile needs no engine.
            let Some(model) = model.upgrade() else { return };
            match built {
                Ok(engine) => {
                    let (name, seconds) = (&model.name, started.elapsed().as_secs());
                    tracing::info!(model = %name, version = model.version, %provider, seconds, "engine built");
                    model.replace(engine);
                }
                Err(error) => model.build_failed(provider, &error),
            }
        };
        let spawned = std::thread::Builder::new().name(format!("build-{}", self.name)).spawn(build);
        if let Err(error) = spawned {
            self.build_failed(provider, &error);
        }
    }

    /// As many of the better engine as there are threads, where it can be shared; else the others end.
    fn replace(&self, engine: Box<dyn Engine>) {
        let engine = match &self.states {
            None => engine,
            Some(states) => match states.wrap(engine) {
                Ok(engine) => Box::new(engine),
                Err(error) => return self.build_failed(self.placed.placement().provider, &error),
            },
        };
        let wanted = self.queue.now().instances;
        let engines = instances(engine, wanted);
        if engines.len() < wanted {
            let (name, have) = (&self.name, engines.len());
            tracing::warn!(model = %name, version = self.version, have, wanted, "the better engine has fewer instances");
        }
        self.queue.replace(engines);
    }

    fn build_failed(&self, provider: Provider, error: &(dyn std::error::Error + 'static)) {
        let reason = chain(error);
        tracing::warn!(model = %self.name, version = self.version, %provider, %reason, "provider failed");
        self.stats.provider_failed();
        self.placed.build_failed(provider, reason);
    }

    pub(crate) fn state(&self) -> State {
        match self.queue.phase() {
            Phase::Open if self.placed.is_building() => State::Building,
            Phase::Open => State::Ready,
            Phase::Draining | Phase::Stopping => State::Unloading,
            Phase::Lost(_) => State::Unavailable,
        }
    }

    /// Why the engine was lost; empty while it is not.
    pub(crate) fn fault(&self) -> String {
        match self.queue.phase() {
            Phase::Lost(reason) => reason,
            _ => String::new(),
        }
    }

    pub(crate) fn view(&self) -> ModelView {
        ModelView {
            name: Arc::clone(&self.name),
            version: self.version,
            state: self.state(),
            signature: Arc::clone(&self.shown.signature),
            config: Arc::clone(&self.config),
            placement: self.placed.placement(),
            building: self.placed.view(),
            versions: vec![self.version],
            dir: Arc::clone(&self.dir),
            warnings: Arc::clone(&self.warnings),
            footprint: self.footprint,
            memory: self.memory.clone(),
        }
    }

    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Its engine is lost, or it will take no more requests: what it takes is not counted any more, or is counted
    /// as memory that comes back.
    pub(crate) fn leave(&self) {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        match self.queue.phase() {
            Phase::Lost(_) => *lease = None,
            _ => lease.iter().for_each(Lease::leaves),
        }
    }

    /// Stops the threads and waits until the engines are gone. Blocking; only when nothing is pending.
    pub(crate) fn join(&self) {
        self.queue.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.into_iter().for_each(EngineThread::join);
    }
}

/// `engine` and others that share its weights, `wanted` in all, or fewer where it cannot be shared.
pub(crate) fn instances(engine: Box<dyn Engine>, wanted: usize) -> Vec<Box<dyn Engine>> {
    let mut engines = vec![engine];
    while engines.len() < wanted
        && let Some(another) = engines.first().and_then(|engine| engine.share())
    {
        engines.push(another);
    }
    engines
}

impl Drop for Model {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

/// What the model's settings ask of its queue.
fn bounds(config: &ModelConfig, queue_limit: usize) -> Bounds {
    let PriorityConfig { levels, default_level, default_queue, queues } = &config.priority;
    let queue = |level: u32| queues.get(&level).copied().unwrap_or(*default_queue);
    Bounds {
        limit: config.queue_limit.unwrap_or(queue_limit),
        max_rows: if config.dynamic_batching { config.max_batch_size } else { 0 },
        delay: Duration::from_micros(config.batch_delay_us),
        preferred: config.preferred_batch_sizes.clone(),
        preserve_ordering: config.preserve_ordering,
        levels: (1..=(*levels).max(1)).map(queue).collect(),
        default_level: (*default_level).max(1),
        sequencing: config.sequence.as_ref().map(|sequence| Sequencing {
            max_idle: Duration::from_micros(sequence.max_idle_us),
            max_sequences: sequence.max_sequences,
        }),
    }
}

/// Where a model runs and what is being built for it, as its engine thread and its build tell it.
#[derive(Debug)]
pub(crate) struct Placed {
    placement: RwLock<Arc<Placement>>,
    building: Mutex<Option<Building>>,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Building {
    provider: Provider,
    started: Instant,
    progress: Arc<BuildProgress>,
}

impl Placed {
    pub(crate) fn new(placement: Placement, stats: Arc<Stats>) -> Self {
        Self { placement: RwLock::new(Arc::new(placement)), building: Mutex::default(), stats }
    }

    pub(crate) fn placement(&self) -> Arc<Placement> {
        Arc::clone(&self.placement.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn ran(&self) -> Ran {
        ran(&self.placement())
    }

    /// The engine thread changed to the engine that was built.
    pub(crate) fn replaced(&self, placement: &Placement) -> Ran {
        *self.placement.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(placement.clone());
        *self.lock_building() = None;
        let ran = ran(placement);
        self.stats.placed(ran.clone());
        ran
    }

    fn building(&self, building: Building) {
        *self.lock_building() = Some(building);
    }

    fn is_building(&self) -> bool {
        self.lock_building().is_some()
    }

    fn view(&self) -> Option<BuildView> {
        let building = self.lock_building();
        let Building { provider, started, progress } = building.as_ref()?;
        let (done, total) = progress.get();
        Some(BuildView { provider: *provider, elapsed: started.elapsed(), done, total })
    }

    /// The attempt is kept where those of the load are.
    fn build_failed(&self, provider: Provider, reason: String) {
        *self.lock_building() = None;
        let mut placement = self.placement.write().unwrap_or_else(PoisonError::into_inner);
        let mut told = (**placement).clone();
        match told.attempts.iter_mut().find(|attempt| attempt.provider == provider) {
            Some(attempt) => attempt.failure = Some(reason),
            None => told.attempts.push(engine::Attempt { provider, failure: Some(reason) }),
        }
        *placement = Arc::new(told);
    }

    fn lock_building(&self) -> MutexGuard<'_, Option<Building>> {
        self.building.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn ran(placement: &Placement) -> Ran {
    Ran { provider: placement.provider, device: placement.device.clone() }
}
