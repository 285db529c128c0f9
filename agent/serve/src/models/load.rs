use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use engine::{
    Attempt, Backend, Engine, Footprint, LoadError, LoadOptions, Loaded, ModelSource, PendingBuild,
    Placement, Provider, Signature, States,
};
use wire::chain;

use super::memory::{Lease, Measured};
use super::warmup::warm_up;
use super::{Models, Slot, recover};
use crate::error::Error;
use crate::model::{Model, Parts, instances, ran};
use crate::model_config::{Shown, show};
use crate::repository::{Seen, Stamp};
use crate::stats::Stats;
use crate::{ModelConfig, SequenceConfig, State};

/// Which of the wanted versions a load touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Whose files changed since they were last tried.
    Changed,
}

/// What is there to load.
struct Plan {
    config: ModelConfig,
    wanted: Vec<u64>,
    seen: Seen,
}

/// The engines of one version, warm and measured, that have no threads yet.
pub(super) struct Warm {
    pub(super) engines: Vec<Box<dyn Engine>>,
    pub(super) pending: Option<PendingBuild>,
    pub(super) placement: Placement,
    pub(super) lease: Lease,
    dir: PathBuf,
    /// Completed.
    config: ModelConfig,
    states: Option<States>,
    shown: Shown,
    stamp: Stamp,
    stats: Arc<Stats>,
}

/// An engine and how it was got.
struct Got<'a> {
    loaded: Loaded,
    placement: Placement,
    measure: Option<Measure<'a>>,
}

/// What a backend used before a load. Loads of one backend wait for each other, so that the difference is one
/// model's.
struct Measure<'a> {
    backend: &'a Arc<dyn Backend>,
    before: Footprint,
    _turn: MutexGuard<'a, ()>,
}

impl Models {
    /// Loads what the model's version policy wants, each version beside what serves, and swaps it in. Versions that
    /// are not wanted any more end when all that are wanted serve. Blocking; the caller has the model's turn. The
    /// error is the reason, as the index shows it.
    pub(super) fn load_now(&self, name: &str, which: Which, json: Option<String>) -> Result<(), String> {
        let _busy = Busy::new(self, name);
        let on_disk = self.repository.versions(name);
        let newest = on_disk.as_ref().ok().and_then(|versions| versions.last().copied());
        let json = if which == Which::All { json } else { self.with_slot(name, |slot| slot.json.clone()) };
        let plan = on_disk.and_then(|on_disk| self.plan(name, &on_disk, json.as_deref()));
        let mut failed = BTreeMap::new();
        match plan {
            Ok(Plan { config, wanted, seen }) => {
                for &version in &wanted {
                    let (due, kept) = self.with_slot(name, |slot| slot.due(version, which, &seen));
                    if due {
                        if let Err(error) = self.load_version(name, version, &config) {
                            failed.insert(Some(version), log_failure(name, Some(version), &error));
                        }
                    } else if let Some(reason) = kept {
                        failed.insert(Some(version), reason);
                    }
                }
                if failed.is_empty() {
                    self.retire_all(name, |version| !wanted.contains(&version));
                }
                self.with_slot(name, |slot| (slot.attempted, slot.json) = (Some(seen), json));
            }
            Err(error) => {
                failed.insert(newest, log_failure(name, newest, &error));
                let seen = self.repository.see(name).ok();
                self.with_slot(name, |slot| slot.attempted = seen);
            }
        }
        let reasons: Vec<_> = failed.values().cloned().collect();
        self.with_slot(name, |slot| slot.failed = failed);
        if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
    }

    fn plan(&self, name: &str, on_disk: &[u64], json: Option<&str>) -> Result<Plan, Error> {
        // Before anything is read: what changes from now on is for the next look.
        let seen = self.repository.see(name)?;
        let config = self.repository.config(name, json)?;
        let wanted = config.version_policy.select(on_disk);
        Ok(Plan { config, wanted, seen })
    }

    /// Loads a version beside the one that serves, and swaps it in.
    pub(super) fn load_version(&self, name: &str, version: u64, config: &ModelConfig) -> Result<(), Error> {
        let lost = self.read().get(name).and_then(|slot| slot.serving.get(&version).cloned());
        if let Some(lost) = lost.filter(|model| model.queue.phase().is_lost()) {
            lost.leave();
        }
        let states = config.sequence.as_ref().map(SequenceConfig::states);
        let Warm { engines, pending, placement, lease, dir, config, states, shown, stamp, stats } =
            self.warm(name, version, config.clone(), states)?;
        let parts = Parts {
            name: Arc::from(name),
            version,
            dir: Arc::from(dir),
            config,
            queue_limit: self.queue_limit,
            stats,
            placement,
            states,
            shown,
            stamp,
            lease: Some(lease),
        };
        let model = Model::start(parts, engines, recover::on_lost(&self.me, name))?;
        if let Some(pending) = pending {
            model.build(pending);
        }
        let queue = Arc::clone(&model.queue);
        let old = self.with_slot(name, |slot| slot.serving.insert(version, model));
        old.into_iter().for_each(|old| self.retire(old));
        // Lost before anybody could find it here.
        if queue.phase().is_lost() {
            self.recover(name, &queue);
        }
        Ok(())
    }

    fn with_slot<T>(&self, name: &str, change: impl FnOnce(&mut Slot) -> T) -> T {
        change(self.write().entry(name.to_owned()).or_default())
    }

    /// As [`Models::prepare`]. A backend that panics must not leave the model LOADING for ever.
    pub(super) fn warm(
        &self,
        name: &str,
        version: u64,
        config: ModelConfig,
        states: Option<States>,
    ) -> Result<Warm, Error> {
        catch_unwind(AssertUnwindSafe(|| self.prepare(name, version, config, states))).unwrap_or_else(|_| {
            let detail = "the backend panicked while it loaded the model".to_owned();
            Err(Error::Load { source: LoadError::Refused { detail } })
        })
    }

    /// Loads and warms up as many engines as the model asks for, over `states` where it keeps some.
    fn prepare(
        &self,
        name: &str,
        version: u64,
        mut config: ModelConfig,
        states: Option<States>,
    ) -> Result<Warm, Error> {
        let path = self.repository.file(name, version, &config)?;
        let dir = self.repository.dir(name);
        self.check_gpus(&config)?;
        let stamp = Stamp::of(&dir.join(version.to_string()))?;
        let on_device =
            config.providers.iter().any(|provider| *provider != Provider::Cpu && self.offers(*provider));
        let lease = self.memory.reserve(name, version, &stamp, on_device)?;

        let started = Instant::now();
        let source = ModelSource { name: name.to_owned(), version, path };
        let Got { loaded: Loaded { engine, pending }, placement, measure } =
            self.load_engine(&source, &config)?;
        let engine = wrap(states.as_ref(), engine)?;
        config.complete(engine.signature(), self.default_max_batch_size);
        check_batches(engine.signature(), &config)?;
        config.check_media(engine.signature())?;
        let shown = show(&config, engine.signature())?;
        let mut engines = self.instances(engine, &source, &config, states.as_ref(), measure.is_some())?;
        for engine in &mut engines {
            warm_up(engine.as_mut(), &config, &shown, &dir)?;
        }
        let duration = started.elapsed();
        let told = engines.first().and_then(|engine| engine.footprint());
        // The weights of a model on the CPU are in host memory, wherever the allocator had it from.
        let least = if placement.provider == Provider::Cpu { stamp.bytes() } else { 0 };
        let taken = || measure.as_ref().and_then(|measure| measure.taken(least));
        let measured = told.map(Measured::Told).or_else(|| taken().map(Measured::Difference));
        drop(measure);
        match measured {
            Some(measured) => lease.settle(stamp.clone(), measured)?,
            // Nobody can tell: the estimate stays.
            None => tracing::debug!(model = name, version, "its memory cannot be measured"),
        }

        let mut failures = 0;
        for Attempt { provider, failure } in &placement.attempts {
            if let Some(reason) = failure {
                tracing::warn!(model = name, version, %provider, %reason, "provider failed");
                failures += 1;
            }
        }
        for warning in config.warnings.iter().chain(&shown.warnings) {
            tracing::warn!(model = name, version, %warning, "configuration");
        }
        tracing::info!(
            model = name,
            version,
            provider = %placement.provider,
            device = %placement.device.name,
            instances = engines.len(),
            host_bytes = lease.footprint().host_bytes,
            device_bytes = lease.footprint().device_bytes,
            milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            "loaded"
        );
        let stats = self.with_slot(name, |slot| Arc::clone(slot.stats.entry(version).or_default()));
        stats.loaded(duration, failures, ran(&placement));
        Ok(Warm { engines, pending, placement, lease, dir, config, states, shown, stamp, stats })
    }

    /// As many engines as the model asks for: over the same weights where the backend can share them.
    fn instances(
        &self,
        first: Box<dyn Engine>,
        source: &ModelSource,
        config: &ModelConfig,
        states: Option<&States>,
        measuring: bool,
    ) -> Result<Vec<Box<dyn Engine>>, Error> {
        let mut engines = instances(first, config.instances);
        while engines.len() < config.instances {
            // The build beside the first instance is the only one: it replaces them all.
            let next = self.ask(source, config, !measuring)?.loaded.engine;
            engines.push(wrap(states, next)?);
        }
        Ok(engines)
    }

    fn load_engine(&self, source: &ModelSource, config: &ModelConfig) -> Result<Got<'_>, Error> {
        self.ask(source, config, true)
    }

    /// Asks the backends in the order of the model's providers, each for the providers that follow each other and
    /// are its own; the first that can load the model does.
    fn ask(&self, source: &ModelSource, config: &ModelConfig, measured: bool) -> Result<Got<'_>, Error> {
        let mut attempts = Vec::new();
        let mut refused = None;
        for (index, providers) in self.route(&config.providers, &mut attempts) {
            let Some(backend) = self.backends.get(index) else { continue };
            let measure = if measured { self.measure(index, backend) } else { None };
            let options = LoadOptions { providers: providers.clone(), ..config.load_options() };
            match backend.load(source, &options) {
                Ok(loaded) => {
                    let mut placement = loaded.engine.placement().clone();
                    attempts.append(&mut placement.attempts);
                    placement.attempts = attempts;
                    return Ok(Got { loaded, placement, measure });
                }
                Err(error) => {
                    let failure = Some(chain(&error));
                    attempts.extend(
                        providers.iter().map(|&provider| Attempt { provider, failure: failure.clone() }),
                    );
                    refused = Some(error);
                }
            }
        }
        let nobody =
            || LoadError::NoProvider { detail: "no backend of this agent offers any of them".to_owned() };
        Err(Error::Load { source: refused.unwrap_or_else(nobody) })
    }

    /// The backends to ask, by index, and for what.
    fn route(&self, providers: &[Provider], attempts: &mut Vec<Attempt>) -> Vec<(usize, Vec<Provider>)> {
        let mut route: Vec<(usize, Vec<Provider>)> = Vec::new();
        for &provider in providers {
            let offers = |backend: &Arc<dyn Backend>| backend.providers().contains(&provider);
            let Some(index) = self.backends.iter().position(offers) else {
                let failure = Some("no backend of this agent offers it".to_owned());
                attempts.push(Attempt { provider, failure });
                continue;
            };
            match route.last_mut().filter(|(last, _)| *last == index) {
                Some((_, providers)) => providers.push(provider),
                None => route.push((index, vec![provider])),
            }
        }
        route
    }

    fn measure<'a>(&'a self, index: usize, backend: &'a Arc<dyn Backend>) -> Option<Measure<'a>> {
        backend.used()?;
        let turn = self.measuring.get(index)?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Measure { backend, before: backend.used()?, _turn: turn })
    }

    fn offers(&self, provider: Provider) -> bool {
        self.backends.iter().any(|backend| backend.providers().contains(&provider))
    }

    /// Whether the GPUs that the configuration numbers are there.
    fn check_gpus(&self, config: &ModelConfig) -> Result<(), Error> {
        let devices = self.backends.iter().map(|backend| (backend.device(), backend.providers()));
        let known: Vec<u32> = devices
            .filter(|(_, providers)| providers.iter().any(|provider| *provider != Provider::Cpu))
            .map(|(device, _)| device.id.strip_prefix("gpu:").and_then(|id| id.parse().ok()).unwrap_or(0))
            .collect();
        match config.gpus.iter().find(|gpu| !known.contains(gpu)) {
            Some(gpu) => {
                let detail = format!("instance_group.gpus names {gpu}, but this agent has {known:?}");
                Err(Error::Misfit { detail })
            }
            None => Ok(()),
        }
    }
}

/// The engine as clients use it: without its state tensors, where it has some.
fn wrap(states: Option<&States>, engine: Box<dyn Engine>) -> Result<Box<dyn Engine>, Error> {
    match states {
        Some(states) => Ok(Box::new(states.wrap(engine).map_err(|source| Error::Load { source })?)),
        None => Ok(engine),
    }
}

impl Slot {
    /// Whether the version is to be loaded now; if not, why it failed before.
    fn due(&self, version: u64, which: Which, seen: &Seen) -> (bool, Option<String>) {
        let serving = self.serving.get(&version);
        let failed = self.failed.get(&Some(version));
        let due = match which {
            Which::All => true,
            Which::Changed => self.attempted.as_ref().is_none_or(|before| {
                before.config != seen.config
                    || before.versions.get(&version) != seen.versions.get(&version)
                    || (serving.is_none() && failed.is_none())
            }),
        };
        (due, failed.filter(|_| !due).cloned())
    }
}

impl Measure<'_> {
    fn taken(&self, least_host_bytes: u64) -> Option<Footprint> {
        let after = self.backend.used()?;
        Some(Footprint {
            host_bytes: after.host_bytes.saturating_sub(self.before.host_bytes).max(least_host_bytes),
            device_bytes: after.device_bytes.saturating_sub(self.before.device_bytes),
        })
    }
}

/// The model is LOADING as long as this lives, and never longer.
struct Busy<'a> {
    models: &'a Models,
    name: &'a str,
}

impl<'a> Busy<'a> {
    fn new(models: &'a Models, name: &'a str) -> Self {
        models.with_slot(name, |slot| slot.busy = Some(State::Loading));
        Self { models, name }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.models.with_slot(self.name, |slot| slot.busy = None);
    }
}

fn log_failure(name: &str, version: Option<u64>, error: &Error) -> String {
    let reason = chain(error);
    tracing::warn!(model = name, version, %reason, "load failed");
    reason
}

/// Tensors that the agent gives and takes itself may batch along another axis.
fn check_batches(signature: &Signature, config: &ModelConfig) -> Result<(), Error> {
    let own: Vec<_> = config.sequence.iter().flat_map(|sequence| sequence.own()).collect();
    let mut specs = signature.inputs.iter().chain(&signature.outputs);
    let fixed = specs.find(|spec| !spec.batches() && !own.contains(&spec.name.as_str()));
    match fixed {
        Some(spec) if config.max_batch_size > 0 => {
            let (size, name) = (config.max_batch_size, &spec.name);
            let detail = format!("max_batch_size is {size}, but the first axis of '{name}' is fixed");
            Err(Error::Misfit { detail })
        }
        _ => Ok(()),
    }
}
