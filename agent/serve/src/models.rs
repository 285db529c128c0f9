//! The registry: which models are known, loaded, swapped and unloaded.
//!
//! A load happens beside what serves: only when the new version is warm does it take the place of the old one,
//! which then finishes what it has. A load that fails changes nothing but the reason in the index. Loads and
//! unloads of one model wait for each other; those of different models do not.

mod load;
mod recover;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use engine::Backend;
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use wire::{Error, ErrorCode};

use crate::admit::retry_after;
use crate::model::Model;
use crate::repository::Repository;
use crate::stats::Stats;
use crate::{Config, IndexEntry, ModelStats, State};

#[derive(Debug)]
pub(crate) struct Models {
    /// For the threads that outlive a call: they must not keep the registry alive.
    me: Weak<Models>,
    repository: Repository,
    backends: Vec<Arc<dyn Backend>>,
    queue_limit: usize,
    unload_budget: Duration,
    slots: RwLock<HashMap<String, Slot>>,
    draining: AtomicBool,
}

/// One name of the repository.
#[derive(Debug, Default)]
struct Slot {
    /// Held by whoever loads or unloads this model.
    turn: Arc<Mutex<()>>,
    serving: Option<Arc<Model>>,
    busy: Option<State>,
    /// Why the last load or unload left nothing new that serves.
    failed: Option<Failed>,
    /// By version, over all loads.
    stats: BTreeMap<u64, Arc<Stats>>,
    /// Loads by ourselves after a device was lost, since the last one that somebody asked for.
    recoveries: u32,
}

#[derive(Debug, Clone)]
struct Failed {
    version: Option<u64>,
    reason: String,
}

impl Models {
    pub(crate) fn new(config: &Config, backends: Vec<Arc<dyn Backend>>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            repository: Repository::new(config.model_repository.clone()),
            backends,
            queue_limit: config.queue_limit.max(1),
            unload_budget: Duration::from_millis(config.unload_budget_ms),
            slots: RwLock::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// The version that serves a request for `name`, in Triton's words when there is none.
    pub(crate) fn find(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>, Error> {
        let slots = self.read();
        let Some(slot) = slots.get(name) else { return Err(unknown(name)) };
        match (&slot.serving, version) {
            (Some(model), None) => Ok(Arc::clone(model)),
            (Some(model), Some(version)) if model.version == version => Ok(Arc::clone(model)),
            (None, _) if slot.busy == Some(State::Loading) => {
                let text = format!("model '{name}' is being loaded");
                Err(Error::unavailable(text, retry_after(Duration::ZERO)))
            }
            (_, Some(version)) => {
                let text = format!("Request for unknown model: '{name}' version {version} is not found");
                Err(Error::new(ErrorCode::NotFound, text))
            }
            (None, None) => {
                let text = format!("Request for unknown model: '{name}' has no available versions");
                Err(Error::new(ErrorCode::NotFound, text))
            }
        }
    }

    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.read().contains_key(name) || self.repository.has(name)
    }

    /// The models that serve, by name.
    pub(crate) fn serving(&self) -> Vec<Arc<Model>> {
        let mut models: Vec<_> = self.read().values().filter_map(|slot| slot.serving.clone()).collect();
        models.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        models
    }

    /// The models on disk, which are LOADING from here on until each was tried.
    pub(crate) fn announce(&self) -> Result<Vec<String>, crate::Error> {
        let names = self.repository.names()?;
        let mut slots = self.write();
        for name in &names {
            let slot = slots.entry(name.clone()).or_default();
            if slot.serving.is_none() {
                slot.busy = Some(State::Loading);
            }
        }
        Ok(names)
    }

    pub(crate) async fn load(&self, name: &str) -> Result<(), Error> {
        let turn = self.turn(name)?.lock_owned().await;
        let Some(models) = self.me.upgrade() else { return Err(unknown(name)) };
        if let Some(slot) = self.write().get_mut(name) {
            slot.recoveries = 0;
        }
        let owned = name.to_owned();
        // The turn goes with the load: it ends when the load does, even if our caller goes away before.
        let load = spawn_blocking(move || {
            let result = models.load_now(&owned);
            drop(turn);
            result
        });
        let failed = |reason: String| Error::invalid(format!("failed to load '{name}': {reason}"));
        load.await.map_err(|error| failed(error.to_string()))?.map_err(failed)
    }

    pub(crate) async fn unload(&self, name: &str) -> Result<(), Error> {
        let turn = self.turn(name)?.lock_owned().await;
        let Some(models) = self.me.upgrade() else { return Err(unknown(name)) };
        let owned = name.to_owned();
        // On a task of its own, so that it runs to its end even if our caller goes away.
        let unload = tokio::spawn(async move {
            models.unload_now(&owned).await;
            drop(turn);
        });
        unload
            .await
            .map_err(|error| Error::new(ErrorCode::Internal, format!("cannot unload '{name}': {error}")))
    }

    async fn unload_now(&self, name: &str) {
        let model = self.write().get_mut(name).and_then(|slot| {
            slot.busy = Some(State::Unloading);
            slot.serving.take()
        });
        let mut version = None;
        if let Some(model) = model {
            version = Some(model.version);
            model.queue.close();
            let left = model.queue.finish(Instant::now() + self.unload_budget).await;
            if left > 0 {
                tracing::warn!(model = name, left, "unloaded with requests that did not finish");
            } else {
                // Returns when the engine's memory is free. A panic there is printed by its own hook.
                spawn_blocking(move || model.join()).await.ok();
            }
            tracing::info!(model = name, version, "unloaded");
        }
        if let Some(slot) = self.write().get_mut(name) {
            slot.busy = None;
            let version = version.or(slot.failed.as_ref().and_then(|failed| failed.version));
            slot.failed = Some(Failed { version, reason: "unloaded".to_owned() });
        }
    }

    fn turn(&self, name: &str) -> Result<Arc<Mutex<()>>, Error> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(draining());
        }
        if !self.is_known(name) {
            let text = format!("there is no model '{name}' in the repository");
            return Err(Error::new(ErrorCode::UnknownModel, text));
        }
        let mut slots = self.write();
        Ok(Arc::clone(&slots.entry(name.to_owned()).or_default().turn))
    }

    /// Takes no more requests and ends every engine thread; the names of what did not end by `deadline`.
    pub(crate) async fn drain(&self, deadline: Instant) -> Vec<String> {
        self.draining.store(true, Ordering::SeqCst);
        let mut ends = JoinSet::new();
        for model in self.serving() {
            model.queue.close();
            ends.spawn(end(model, deadline));
        }
        let mut left = Vec::new();
        while let Some(names) = ends.join_next().await {
            left.extend(names.unwrap_or_else(|error| vec![format!("a model that could not end: {error}")]));
        }
        left.sort_unstable();
        left
    }

    /// Every version that is or was known, and every folder that was never loaded.
    pub(crate) fn index(&self) -> Vec<IndexEntry> {
        let mut entries = Vec::new();
        let mut names = self.repository.names().unwrap_or_default();
        let slots = self.read();
        names.retain(|name| !slots.contains_key(name));
        for name in names {
            let reason = "not loaded".to_owned();
            entries.push(IndexEntry { name, version: None, state: State::Unavailable, reason });
        }
        for (name, slot) in slots.iter() {
            slot.index(name, &mut entries);
        }
        drop(slots);
        entries.sort_unstable_by(|one, other| (&one.name, one.version).cmp(&(&other.name, other.version)));
        entries
    }

    pub(crate) fn stats(&self) -> Vec<ModelStats> {
        let mut all = Vec::new();
        for (name, slot) in self.read().iter() {
            for (version, stats) in &slot.stats {
                let serving = slot.serving.as_ref().filter(|model| model.version == *version);
                let now = serving.map(|model| model.queue.now()).unwrap_or_default();
                all.extend(stats.snapshot(name, *version, &now));
            }
        }
        all.sort_unstable_by(|one, other| (&one.model, one.version).cmp(&(&other.model, other.version)));
        all
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn index(&self, name: &str, entries: &mut Vec<IndexEntry>) {
        let entry = |version, state, reason: &str| IndexEntry {
            name: name.to_owned(),
            version,
            state,
            reason: reason.to_owned(),
        };
        let failed = self.failed.as_ref();
        if let Some(model) = &self.serving {
            // A failed reload of the very version that serves is told beside it.
            let same = failed.filter(|failed| failed.version.is_none_or(|version| version == model.version));
            let reason = match (model.fault(), same) {
                (fault, _) if !fault.is_empty() => fault,
                (_, Some(failed)) => format!("the last load failed: {}", failed.reason),
                (fault, None) => fault,
            };
            entries.push(entry(Some(model.version), model.state(), &reason));
        }
        let serving = self.serving.as_ref().map(|model| model.version);
        match (self.busy, failed) {
            (Some(state), _) if serving.is_none() => entries.push(entry(None, state, "")),
            (_, Some(failed))
                if serving.is_none() || failed.version.is_some_and(|it| Some(it) != serving) =>
            {
                entries.push(entry(failed.version, State::Unavailable, &failed.reason));
            }
            _ => {}
        }
    }
}

/// Lets a closed model finish; the names of what it did not.
async fn end(model: Arc<Model>, deadline: Instant) -> Vec<String> {
    let what = format!("model '{}' version {}", model.name, model.version);
    let mut left = Vec::new();
    if let Some(build) = model.view().building {
        left.push(format!("{what}: the build of its {} engine", build.provider));
    }
    let pending = model.queue.finish(deadline).await;
    if pending > 0 {
        left.push(format!("{what}: {pending} requests"));
    } else {
        let join = spawn_blocking(move || model.join());
        if tokio::time::timeout_at(deadline.into(), join).await.is_err() {
            left.push(format!("{what}: its engine"));
        }
    }
    left
}

fn unknown(name: &str) -> Error {
    let text = format!("Request for unknown model: '{name}' is not found");
    Error::new(ErrorCode::UnknownModel, text)
}

pub(crate) fn draining() -> Error {
    Error::unavailable("the agent is stopping", retry_after(Duration::ZERO))
}
