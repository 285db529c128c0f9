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
use crate::models::{Lease, Recovery};
use crate::repository::Stamp;
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
    /// What of its files was loaded.
    pub(crate) stamp: Stamp,
    pub(crate) recovery: Mutex<Recovery>,
    /// Of every engine of this version, for a model that keeps state.
    pub(crate) states: Option<States>,
    warnings: Arc<[String]>,
    engines: RwLock<Engines>,
}

/// What a version has of its engines, and has anew after they were lost.
#[derive(Debug)]
struct Engines {
    memory: Option<Arc<dyn Memory>>,
    threads: Vec<EngineThread>,
    lease: Option<Lease>,
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
    pub(crate) stamp: Stamp,
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
        let Parts {
            name,
            version,
            dir,
            config,
            queue_limit: _,
            stats,
            placement,
            states,
            shown,
            stamp,
            lease,
        } = parts;
        let queue = Arc::new(Queue::new(Arc::clone(&name), bounds, engines.len(), Arc::clone(&stats)));
        let warnings = config.warnings.iter().chain(&shown.warnings).cloned().collect();
        let model = Self {
            name,
            version,
            dir,
            shown: Arc::new(shown),
            config: Arc::new(config),
            queue,
            placed: Arc::new(Placed::new(placement, Arc::clone(&stats))),
            stats,
            stamp,
            recovery: Mutex::default(),
            states,
            warnings,
            engines: RwLock::new(Engines {
                memory: None,
                threads: Vec::new(),
                lease: None,
                footprint: Footprint::default(),
            }),
        };
        // Threads that did start end with the model.
        model.drive(engines, lease, on_lost)?;
        Ok(Arc::new(model))
    }

    /// New engines for a version whose engines were lost, over the same files and the same states: what waited for
    /// them runs, and sequences go on. Nothing happens where the version is ending meanwhile.
    pub(crate) fn revive(
        self: &Arc<Self>,
        placement: &Placement,
        engines: Vec<Box<dyn Engine>>,
        pending: Option<PendingBuild>,
        lease: Lease,
        on_lost: OnLost,
    ) -> Result<(), Error> {
        self.placed.replaced(placement);
        if !self.queue.resume(engines.len()) {
            return Ok(());
        }
        self.drive(engines, Some(lease), on_lost).inspect_err(|error| {
            self.queue.lose(self.queue.generation(), &error.to_string());
        })?;
        if let Some(pending) = pending {
            self.build(pending);
        }
        Ok(())
    }

    /// A thread per engine, all of them fed from one queue.
    fn drive(
        &self,
        engines: Vec<Box<dyn Engine>>,
        lease: Option<Lease>,
        on_lost: OnLost,
    ) -> Result<(), Error> {
        let memory = engines.first().and_then(|engine| engine.memory());
        let on_lost = Lost::new(on_lost);
        let feed = |index| {
            let (queue, shown) = (Arc::clone(&self.queue), Arc::clone(&self.shown));
            ModelFeed::new(queue, shown, Arc::clone(&self.placed), self.version, index, on_lost.clone())
        };
        let name = format!("engine-{}", self.name);
        // All of them know the same generation, whatever the first one then does.
        let generation = self.queue.generation();
        let mut fed = Vec::with_capacity(engines.len());
        for (index, engine) in engines.into_iter().enumerate() {
            let (queue, lost) = (Arc::clone(&self.queue), on_lost.clone());
            let (model, version) = (Arc::clone(&self.name), self.version);
            // Also one that has nothing to run: the next request need not find it out.
            engine.on_lost(Box::new(move |reason| {
                if queue.lose(generation, reason) {
                    tracing::error!(%model, version, reason, "the model is unavailable");
                    lost.call(&queue);
                }
            }));
            fed.push((engine, feed(index)));
        }
        let threads: Result<Vec<_>, _> =
            fed.into_iter().map(|(engine, feed)| EngineThread::spawn(&name, engine, feed)).collect();
        let threads = threads.map_err(|source| Error::Thread { source })?;
        let footprint = lease.as_ref().map(Lease::footprint).unwrap_or_default();
        let new = Engines { memory, threads, lease, footprint };
        // The threads of lost engines end by themselves.
        *self.engines.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
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
            Phase::Reloading(_) | Phase::Lost { .. } => State::Unavailable,
        }
    }

    /// Why the engine was lost, and why there is no new one yet; empty while it is not.
    pub(crate) fn fault(&self) -> String {
        match self.queue.phase() {
            Phase::Reloading(fault) => fault,
            Phase::Lost { fault, trouble } => format!("{fault}; {trouble}"),
            _ => String::new(),
        }
    }

    pub(crate) fn view(&self) -> ModelView {
        let engines = self.engines.read().unwrap_or_else(PoisonError::into_inner);
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
            footprint: engines.footprint,
            memory: engines.memory.clone(),
        }
    }

    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Its engine is lost, or it will take no more requests: what it takes is not counted any more, or is counted
    /// as memory that comes back.
    pub(crate) fn leave(&self) {
        let lease = &mut self.engines.write().unwrap_or_else(PoisonError::into_inner).lease;
        if self.queue.phase().is_lost() {
            *lease = None;
        } else {
            lease.iter().for_each(Lease::leaves);
        }
    }

    /// Stops the threads and waits until the engines are gone. Blocking; only when nothing is pending.
    pub(crate) fn join(&self) {
        self.queue.stop();
        let threads = {
            let mut engines = self.engines.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut engines.threads)
        };
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
