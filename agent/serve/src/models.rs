//! The registry: which models are known, loaded, swapped and unloaded.
//!
//! Several versions of a model may serve at once, as its version policy says; who names none gets the newest. A load
//! happens beside what serves: only when the new version is warm does it take the place of the old one, which then
//! finishes what it has and ends. A load that fails changes nothing but the reason in the index. Loads and unloads
//! of one model wait for each other; those of different models do not, but where memory is measured.

mod load;
mod memory;
mod poll;
mod recover;
mod warmup;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use engine::{Backend, Footprint};
use tokio::sync::Mutex;
use tokio::task::{JoinSet, spawn_blocking};
use wire::{Error, ErrorCode};

use crate::admit::retry_after;
use crate::model::Model;
use crate::repository::{Repository, Seen};
use crate::stats::Stats;
use crate::{Config, IndexEntry, ModelStats, State};

use load::Warm;
pub(crate) use load::Which;
pub(crate) use memory::Lease;
use memory::MemoryBudget;
pub(crate) use poll::Poller;
pub(crate) use recover::Recovery;

#[derive(Debug)]
pub(crate) struct Models {
    /// For the threads that outlive a call: they must not keep the registry alive.
    me: Weak<Models>,
    repository: Repository,
    backends: Vec<Arc<dyn Backend>>,
    /// Held while a load on the backend of the same index is measured.
    measuring: Vec<StdMutex<()>>,
    memory: Arc<MemoryBudget>,
    queue_limit: usize,
    default_max_batch_size: usize,
    unload_budget: Duration,
    slots: RwLock<HashMap<String, Slot>>,
    draining: AtomicBool,
}

/// One name of the repository.
#[derive(Debug, Default)]
struct Slot {
    /// Held by whoever loads or unloads this model.
    turn: Arc<Mutex<()>>,
    serving: BTreeMap<u64, Arc<Model>>,
    busy: Option<State>,
    /// Why a version does not serve, or not as it lies there now; no version is that of a folder without one.
    failed: BTreeMap<Option<u64>, String>,
    /// What lay there when the last load began.
    attempted: Option<Seen>,
    /// The configuration that came with the last load and stands for the file.
    json: Option<String>,
    /// By version, over all loads.
    stats: BTreeMap<u64, Arc<Stats>>,
}

impl Models {
    pub(crate) fn new(config: &Config, backends: Vec<Arc<dyn Backend>>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            repository: Repository::new(config.model_repository.clone()),
            measuring: backends.iter().map(|_| StdMutex::default()).collect(),
            backends,
            memory: MemoryBudget::new(
                config.memory_budget_bytes,
                config.device_memory_budget_bytes,
                Duration::from_millis(config.unload_budget_ms),
            ),
            queue_limit: config.queue_limit.max(1),
            default_max_batch_size: config.default_max_batch_size,
            unload_budget: Duration::from_millis(config.unload_budget_ms),
            slots: RwLock::default(),
            draining: AtomicBool::new(false),
        })
    }

    /// The version that serves a request for `name`, in Triton's words when there is none.
    pub(crate) fn find(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>, Error> {
        let slots = self.read();
        let Some(slot) = slots.get(name) else { return Err(unknown(name)) };
        let found = match version {
            Some(version) => slot.serving.get(&version),
            None => slot.newest(),
        };
        if let Some(model) = found {
            return Ok(Arc::clone(model));
        }
        match version {
            _ if slot.serving.is_empty() && slot.busy == Some(State::Loading) => {
                let text = format!("model '{name}' is being loaded");
                Err(Error::unavailable(text, retry_after(Duration::ZERO)))
            }
            Some(version) => {
                let text = format!("Request for unknown model: '{name}' version {version} is not found");
                Err(Error::new(ErrorCode::NotFound, text))
            }
            None => {
                let text = format!("Request for unknown model: '{name}' has no available versions");
                Err(Error::new(ErrorCode::NotFound, text))
            }
        }
    }

    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.read().contains_key(name) || self.repository.has(name)
    }

    /// The versions of a model that serve, ascending.
    pub(crate) fn versions(&self, name: &str) -> Vec<u64> {
        self.read().get(name).map(|slot| slot.serving.keys().copied().collect()).unwrap_or_default()
    }

    /// The versions that serve, by name and number.
    pub(crate) fn serving(&self) -> Vec<Arc<Model>> {
        let mut models: Vec<_> =
            self.read().values().flat_map(|slot| slot.serving.values().cloned()).collect();
        models.sort_unstable_by(|one, other| (&one.name, one.version).cmp(&(&other.name, other.version)));
        models
    }

    /// What all models take, also those that are being loaded or are ending.
    pub(crate) fn memory(&self) -> Footprint {
        self.memory.used()
    }

    /// The models on disk that are `wanted`: they are LOADING from here on until each was tried.
    pub(crate) fn announce(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, crate::Error> {
        let mut names = self.repository.names()?;
        names.retain(|name| wanted(name));
        let mut slots = self.write();
        for name in &names {
            let slot = slots.entry(name.clone()).or_default();
            if slot.serving.is_empty() {
                slot.busy = Some(State::Loading);
            }
        }
        Ok(names)
    }

    /// `json` stands for the model's `config.pbtxt`, for this load and what follows from it.
    pub(crate) async fn load(&self, name: &str, which: Which, json: Option<String>) -> Result<(), Error> {
        let turn = self.turn(name)?.lock_owned().await;
        let Some(models) = self.me.upgrade() else { return Err(unknown(name)) };
        let owned = name.to_owned();
        // The turn goes with the load: it ends when the load does, even if our caller goes away before.
        let load = spawn_blocking(move || {
            let result = models.load_now(&owned, which, json);
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
        let models = self.with_slot_if(name, |slot| {
            slot.busy = Some(State::Unloading);
            std::mem::take(&mut slot.serving)
        });
        let models = models.unwrap_or_default();
        let versions: Vec<_> = models.keys().copied().map(Some).collect();
        for model in models.values() {
            model.queue.close();
            model.leave();
        }
        let deadline = Instant::now() + self.unload_budget;
        for (version, model) in models {
            let left = model.queue.finish(deadline).await;
            if left > 0 {
                tracing::warn!(model = name, version, left, "unloaded with requests that did not finish");
                self.retire(model);
            } else {
                // Returns when the engine's memory is free. A panic there is printed by its own hook.
                spawn_blocking(move || model.join()).await.ok();
            }
            tracing::info!(model = name, version, "unloaded");
        }
        self.with_slot_if(name, |slot| {
            slot.busy = None;
            let known = slot.failed.keys().copied().collect();
            let unloaded = if versions.is_empty() { known } else { versions };
            let unloaded = if unloaded.is_empty() { vec![None] } else { unloaded };
            slot.failed = unloaded.into_iter().map(|version| (version, "unloaded".to_owned())).collect();
        });
    }

    /// Ends the versions that are not wanted any more. Requests that hold one still run.
    fn retire_all(&self, name: &str, gone: impl Fn(u64) -> bool) {
        let retired = self.with_slot_if(name, |slot| {
            let gone: Vec<_> = slot.serving.keys().copied().filter(|version| gone(*version)).collect();
            gone.into_iter().filter_map(|version| slot.serving.remove(&version)).collect::<Vec<_>>()
        });
        retired.into_iter().flatten().for_each(|model| self.retire(model));
    }

    /// Waits, on a thread of its own, until nobody holds the version, and ends its engine.
    fn retire(&self, mut model: Arc<Model>) {
        model.leave();
        // Those that waited for engines of its own; who comes now finds its successor.
        model.queue.give_up("it was replaced");
        let patience = self.unload_budget;
        let thread = thread::Builder::new().name(format!("retire-{}", model.name));
        let spawned = thread.spawn(move || {
            let deadline = Instant::now() + patience;
            loop {
                // Who found it just now holds it until its request is queued, and the queue runs to its end.
                match Arc::try_unwrap(model) {
                    Ok(model) => return model.join(),
                    // The last one to let go ends it.
                    Err(_) if Instant::now() >= deadline => return,
                    Err(held) => model = held,
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "cannot start the thread that ends a version");
        }
    }

    fn with_slot_if<T>(&self, name: &str, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.write().get_mut(name).map(change)
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
                let now = slot.serving.get(version).map(|model| model.queue.now()).unwrap_or_default();
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
    /// What serves a request that names no version: the newest that can, or else the newest, to say why not.
    fn newest(&self) -> Option<&Arc<Model>> {
        let serves = |model: &&Arc<Model>| model.state().is_serving();
        self.serving.values().rev().find(serves).or_else(|| self.serving.values().next_back())
    }

    fn index(&self, name: &str, entries: &mut Vec<IndexEntry>) {
        let entry =
            |version, state, reason: String| IndexEntry { name: name.to_owned(), version, state, reason };
        let newest = self.serving.keys().next_back().copied();
        for (version, model) in &self.serving {
            // A failed reload of the very version that serves is told beside it.
            let folder = self.failed.get(&None).filter(|_| newest == Some(*version));
            let failed = self.failed.get(&Some(*version)).or(folder);
            let reason = match (model.fault(), failed) {
                (fault, _) if !fault.is_empty() => fault,
                (_, Some(failed)) => format!("the last load failed: {failed}"),
                (_, None) => model.warnings().join("; "),
            };
            entries.push(entry(Some(*version), model.state(), reason));
        }
        match self.busy {
            Some(state) if self.serving.is_empty() => entries.push(entry(None, state, String::new())),
            _ => {
                let serves = |version: &Option<u64>| match version {
                    Some(version) => self.serving.contains_key(version),
                    None => newest.is_some(),
                };
                let failed = self.failed.iter().filter(|(version, _)| !serves(version));
                entries.extend(
                    failed.map(|(version, reason)| entry(*version, State::Unavailable, reason.clone())),
                );
            }
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
