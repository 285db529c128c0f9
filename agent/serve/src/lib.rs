//! THE REQUEST PATH: from a decoded request to the parts of its reply.
//!
//! In: [`wire::Request`]s from the fronts, with the byte budget their bodies were read into; the words of the
//! operator (load, unload, drain). Out: a [`Reply`] per request, and numbers ([`ModelStats`]) that add up.
//! Start reading at `infer.rs`.
//!
//! Threads: one per instance of a loaded model, which owns an engine and forms its own batches; one per background build
//! (`build-…`) and one per reload after a lost device (`reload-…`), which end by themselves. Tasks: none that
//! outlive a call, but an unload that was asked for runs to its end.
//!
//! It never parses a body, opens a socket, names a runtime or writes to disk, and it logs no label, no
//! client's id and no payload.
#![forbid(unsafe_code)]

mod infer;

// Its steps: admit, residency, fit, schedule (which forms a batch), reply.
mod admit;
mod batch;
mod fit;
mod reply;
pub mod residency;
mod schedule;

// What it runs on: the registry, one loaded version, the folder they come from.
mod model;
mod models;
mod repository;

mod config;
mod error;
mod media_config;
mod model_config;
mod stats;
mod view;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::Backend;

pub use admit::Reservation;
pub use config::Config;
pub use error::Error;
pub use media_config::{EmbedConfig, Pool, TextConfig, TextInputs};
pub use model_config::{
    Channels, ClassifyConfig, DetectConfig, DetectKind, ImageConfig, Layout, ModelConfig, Resize,
};
pub use reply::Reply;
pub use stats::{
    COMPUTE_BOUNDS_US, Counted, Counts, Failures, LevelStats, ModelStats, SequenceStats, Unserved,
};
pub use view::{BuildView, IndexEntry, LoadSummary, ModelView, Pressure, State};

use admit::Budget;
use models::Models;
use residency::{Policy, Site};

/// The request path of one agent, shared by all fronts.
#[derive(Debug)]
pub struct Serve {
    config: Config,
    policy: Policy,
    models: Arc<Models>,
    budget: Arc<Budget>,
    refusals: Refusals,
    started: AtomicBool,
    draining: AtomicBool,
}

impl Serve {
    /// Nothing is loaded yet. `backends` in the order in which they are asked for a provider.
    pub fn new(config: Config, policy: Policy, backends: Vec<Arc<dyn Backend>>) -> Arc<Self> {
        Arc::new(Self {
            models: Models::new(&config, backends),
            budget: Budget::new(config.buffered_limit_bytes),
            config,
            policy,
            refusals: Refusals::default(),
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        })
    }

    /// Room for a body of `bytes` in the one budget of all bodies that are being read or queued. To be called
    /// before the body is read; [`Serve::infer`] takes it over.
    ///
    /// # Errors
    /// `TooLarge` when it could never fit, `Unavailable` when others have the room now.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, wire::Error> {
        self.budget.reserve(bytes)
    }

    /// The version that would serve a request, so that a front can refuse before it reads the body.
    ///
    /// # Errors
    /// `UnknownModel`, `NotFound`, or `Unavailable` while it is loading.
    pub fn find(&self, model: &str, version: Option<u64>) -> Result<ModelView, wire::Error> {
        self.models.find(model, version).map(|model| model.view())
    }

    /// Whether [`Serve::load_all`] has ended and [`Serve::drain`] has not begun.
    pub fn is_ready(&self) -> bool {
        self.started.load(Ordering::SeqCst) && !self.draining.load(Ordering::SeqCst)
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// # Errors
    /// `UnknownModel` when there is no such model in the repository either.
    pub fn is_model_ready(&self, model: &str, version: Option<u64>) -> Result<bool, wire::Error> {
        match self.models.find(model, version) {
            Ok(model) => Ok(model.state().is_serving()),
            Err(_) if self.models.is_known(model) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Loads every model of the repository, one after the other; one that fails never stops the others.
    pub async fn load_all(&self) -> LoadSummary {
        let mut summary = LoadSummary::default();
        match self.models.announce() {
            Ok(names) => {
                for name in names {
                    match self.load(&name).await {
                        Ok(()) => summary.ready.push(name),
                        Err(error) => summary.failed.push((name, error.message)),
                    }
                }
            }
            Err(error) => tracing::warn!(reason = %wire::chain(&error), "no model repository"),
        }
        self.started.store(true, Ordering::SeqCst);
        summary
    }

    /// Loads the newest version, beside the one that serves, and swaps it in. What fails leaves the old one.
    ///
    /// # Errors
    /// `UnknownModel` when the repository has no such folder, `InvalidArgument` with the reason when the load
    /// fails, `Unavailable` while the agent stops.
    pub async fn load(&self, model: &str) -> Result<(), wire::Error> {
        self.models.load(model).await
    }

    /// Takes no more requests, finishes what is queued within `unload_budget_ms`, and frees the engine.
    ///
    /// # Errors
    /// `UnknownModel` when nobody knows the model; one that is not loaded is fine.
    pub async fn unload(&self, model: &str) -> Result<(), wire::Error> {
        self.models.unload(model).await
    }

    /// Turns ready off, refuses what is new, finishes what is in flight, ends the engine threads. Returns the
    /// names of what did not finish within `budget`: requests that wait are failed then, those in an engine
    /// are left to it.
    pub async fn drain(&self, budget: Duration) -> Vec<String> {
        self.draining.store(true, Ordering::SeqCst);
        self.models.drain(Instant::now() + budget).await
    }

    /// Every model of the repository, loaded or not. Reads one directory.
    pub fn index(&self) -> Vec<IndexEntry> {
        self.models.index()
    }

    /// The loaded models, by name.
    pub fn models(&self) -> Vec<ModelView> {
        self.models.serving().iter().map(|model| model.view()).collect()
    }

    /// Every version that was loaded since the start, by name and version.
    pub fn stats(&self) -> Vec<ModelStats> {
        self.models.stats()
    }

    /// Refusals by the residency policy, per rule.
    pub fn refusals(&self) -> Vec<(String, u64)> {
        self.refusals.snapshot()
    }

    pub fn pressure(&self) -> Pressure {
        let pending: usize = self.models.serving().iter().map(|model| model.queue.pending()).sum();
        Pressure {
            buffered_bytes: self.budget.used(),
            buffered_limit_bytes: self.budget.limit(),
            pending_requests: u64::try_from(pending).unwrap_or(u64::MAX),
        }
    }

    pub fn site(&self) -> &Site {
        &self.config.site
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// How often each rule refused; as many entries as the policy has rules.
#[derive(Debug, Default)]
struct Refusals {
    by_rule: Mutex<BTreeMap<String, u64>>,
}

impl Refusals {
    fn count(&self, rule: &str) {
        let mut by_rule = self.by_rule.lock().unwrap_or_else(PoisonError::into_inner);
        match by_rule.get_mut(rule) {
            Some(count) => *count += 1,
            None => {
                by_rule.insert(rule.to_owned(), 1);
            }
        }
    }

    fn snapshot(&self) -> Vec<(String, u64)> {
        let by_rule = self.by_rule.lock().unwrap_or_else(PoisonError::into_inner);
        by_rule.iter().map(|(rule, count)| (rule.clone(), *count)).collect()
    }
}
