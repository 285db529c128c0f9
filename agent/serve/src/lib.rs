//! THE REQUEST PATH: from a decoded request to the parts of its reply.
//!
//! In: [`wire::Request`]s from the fronts, with the byte budget their bodies were read into; the words of the
//! operator (load, unload, drain). Out: a [`Reply`] per request, and numbers ([`ModelStats`]) that add up.
//! Start reading at `infer.rs`.
//!
//! Threads: one per instance of a loaded model, which owns an engine and forms its own batches; one per background
//! build (`build-…`), per version that lost its engines (`reload-…`) and per version that was swapped out (`retire-…`),
//! which end by themselves. Tasks: none that outlive a call, but an unload that was asked for runs to its end.
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
mod reshape;
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
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Backend, Footprint};

pub use admit::Reservation;
pub use config::{Config, ModelControlMode};
pub use error::Error;
pub use media_config::{EmbedConfig, Pool, TextConfig, TextInputs};
pub use model_config::{
    Channels, ClassifyConfig, ControlConfig, ControlKind, DetectConfig, DetectKind, Flag, ImageConfig,
    Layout, ModelConfig, Pbtxt, PriorityConfig, QueuePolicy, Resize, SequenceConfig, Source, StateConfig,
    TensorConfig, TimeoutAction, VersionPolicy, WarmupData, WarmupInput, WarmupSample,
};
pub use reply::Reply;
pub use stats::{
    COMPUTE_BOUNDS_US, Counted, Counts, Failures, LevelStats, ModelStats, SequenceStats, Unserved,
};
pub use view::{BuildView, IndexEntry, LoadParameters, LoadSummary, ModelView, Pressure, State};

use admit::Budget;
use models::{Models, Poller, Which};
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
        let found = self.models.find(model, version)?;
        Ok(ModelView { versions: self.models.versions(model), ..found.view() })
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

    /// Loads the models that are wanted at the start, one after the other; one that fails never stops the others.
    pub async fn load_all(&self) -> LoadSummary {
        let mut summary = LoadSummary::default();
        let Config { model_control_mode: mode, load_models, .. } = &self.config;
        let all = *mode != ModelControlMode::Explicit || load_models.iter().any(|name| name == "*");
        let wanted = |name: &str| all || load_models.iter().any(|wanted| wanted == name);
        match self.models.announce(wanted) {
            Ok(mut names) => {
                if !all {
                    // Also those that are not there, to say so.
                    names.clone_from(load_models);
                }
                for name in names {
                    match self.models.load(&name, Which::All, None).await {
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

    /// Loads the versions that the model's policy wants, each beside what serves, and swaps them in. What fails
    /// leaves the old one.
    ///
    /// # Errors
    /// `UnknownModel` when the repository has no such folder, `InvalidArgument` with the reason when the load
    /// fails, `Unavailable` while the agent stops or when requests do not control the models.
    pub async fn load(&self, model: &str) -> Result<(), wire::Error> {
        self.load_with(model, LoadParameters::default()).await
    }

    /// As [`Serve::load`], with what came with the request.
    ///
    /// # Errors
    /// As [`Serve::load`], and `Unsupported` for the files of a model: they come by the repository only.
    pub async fn load_with(&self, model: &str, parameters: LoadParameters) -> Result<(), wire::Error> {
        self.check_explicit()?;
        if let Some(file) = parameters.files.first() {
            let text = format!("'{file}': a model's files are taken from the repository, not from a request");
            return Err(wire::Error::new(wire::ErrorCode::Unsupported, text));
        }
        self.models.load(model, Which::All, parameters.config).await
    }

    /// Follows the repository until `shutdown` ends, where the mode is `poll`; returns at once where it is not.
    pub async fn poll(&self, shutdown: impl Future<Output = ()>) {
        if self.config.model_control_mode != ModelControlMode::Poll {
            return;
        }
        let mut shutdown = pin!(shutdown);
        let mut poller = Poller::default();
        let interval = Duration::from_millis(self.config.poll_interval_ms.max(100));
        while tokio::time::timeout(interval, &mut shutdown).await.is_err() {
            self.models.poll_once(&mut poller).await;
        }
    }

    /// What all loaded models were measured to take, also those that are ending.
    pub fn memory(&self) -> Footprint {
        self.models.memory()
    }

    /// In Triton's words.
    fn check_explicit(&self) -> Result<(), wire::Error> {
        let why = match self.config.model_control_mode {
            ModelControlMode::Explicit => return Ok(()),
            ModelControlMode::Poll => "explicit model load / unload is not allowed if polling is enabled",
            ModelControlMode::None => "explicit model load / unload is not allowed in the mode 'none'",
        };
        Err(wire::Error::new(wire::ErrorCode::Unavailable, why))
    }

    /// Takes no more requests, finishes what is queued within `unload_budget_ms`, and frees the engine.
    ///
    /// # Errors
    /// `UnknownModel` when nobody knows the model; one that is not loaded is fine. `Unavailable` when requests do
    /// not control the models.
    pub async fn unload(&self, model: &str) -> Result<(), wire::Error> {
        self.check_explicit()?;
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

    /// The loaded versions, by name and number.
    pub fn models(&self) -> Vec<ModelView> {
        let view = |model: &Arc<model::Model>| ModelView {
            versions: self.models.versions(&model.name),
            ..model.view()
        };
        self.models.serving().iter().map(view).collect()
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
