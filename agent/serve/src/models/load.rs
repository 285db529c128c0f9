use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use engine::{
    Attempt, Backend, Batch, BufferMut, Dim, Engine, EngineError, LoadError, Loaded, Member, MemberId,
    ModelSource, PendingBuild, Placement, Tensor, TensorSpec, element_count,
};
use wire::chain;

use super::{Failed, Models, recover};
use crate::error::Error;
use crate::model::{Model, Parts, ran};
use crate::{ModelConfig, State};

impl Models {
    /// Loads the newest version and swaps it in. Blocking; the caller has the model's turn. The error is the
    /// reason, as the index shows it.
    pub(super) fn load_now(&self, name: &str) -> Result<(), String> {
        self.with_slot(name, |slot| slot.busy = Some(State::Loading));
        let version = self.repository.newest(name);
        let at = version.as_ref().ok().copied();
        let loaded = version.and_then(|version| {
            // A backend that panics must not leave the model LOADING for ever.
            catch_unwind(AssertUnwindSafe(|| self.load_beside(name, version)))
                .unwrap_or(Err(Error::LoadPanicked))
        });
        match loaded {
            Ok((model, pending)) => {
                if let Some(pending) = pending {
                    model.build(pending);
                }
                let old = self.with_slot(name, |slot| {
                    slot.busy = None;
                    slot.failed = None;
                    slot.serving.replace(model)
                });
                // Outside the lock: the old version ends here unless a request still holds it.
                drop(old);
                Ok(())
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(model = name, version = at, %reason, "load failed");
                self.with_slot(name, |slot| {
                    slot.busy = None;
                    slot.failed = Some(Failed { version: at, reason: reason.clone() });
                });
                Err(reason)
            }
        }
    }

    fn with_slot<T>(&self, name: &str, change: impl FnOnce(&mut super::Slot) -> T) -> T {
        change(self.write().entry(name.to_owned()).or_default())
    }

    /// A warm model that is not in the registry yet.
    fn load_beside(&self, name: &str, version: u64) -> Result<(Arc<Model>, Option<PendingBuild>), Error> {
        let found = self.repository.find(name, version)?;
        let source = ModelSource { name: name.to_owned(), version: found.version, path: found.file };
        let started = Instant::now();
        let (Loaded { mut engine, pending }, placement) = self.load_engine(&source, &found.config)?;
        check_batches(&*engine, found.config.max_batch_size)?;
        if found.config.warmup {
            warm_up(&mut *engine)?;
        }
        let duration = started.elapsed();

        let mut failures = 0;
        for Attempt { provider, failure } in &placement.attempts {
            if let Some(reason) = failure {
                tracing::warn!(model = name, version, %provider, %reason, "provider failed");
                failures += 1;
            }
        }
        tracing::info!(
            model = name,
            version,
            provider = %placement.provider,
            device = %placement.device.name,
            milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            "loaded"
        );
        let stats = self.with_slot(name, |slot| Arc::clone(slot.stats.entry(version).or_default()));
        stats.loaded(duration, failures, ran(&placement));
        let parts = Parts {
            name: Arc::from(name),
            version,
            dir: Arc::from(found.dir),
            config: found.config,
            queue_limit: self.queue_limit,
            stats,
            placement,
            states: None,
        };
        let model = Model::start(parts, vec![engine], recover::on_lost(&self.me, name))?;
        Ok((model, pending))
    }

    /// Asks the backends in the order of the model's providers; the first that can load the model does.
    fn load_engine(&self, source: &ModelSource, config: &ModelConfig) -> Result<(Loaded, Placement), Error> {
        let mut attempts = Vec::new();
        let mut asked = Vec::new();
        let mut refused = None;
        for &provider in &config.providers {
            let offers = |backend: &Arc<dyn Backend>| backend.providers().contains(&provider);
            let Some(index) = self.backends.iter().position(offers) else {
                let failure = Some("no backend of this agent offers it".to_owned());
                attempts.push(Attempt { provider, failure });
                continue;
            };
            let Some(backend) = self.backends.get(index).filter(|_| !asked.contains(&index)) else {
                continue;
            };
            asked.push(index);
            let mut options = config.load_options();
            options.providers.retain(|provider| backend.providers().contains(provider));
            match backend.load(source, &options) {
                Ok(loaded) => {
                    let mut placement = loaded.engine.placement().clone();
                    attempts.append(&mut placement.attempts);
                    placement.attempts = attempts;
                    return Ok((loaded, placement));
                }
                Err(error) => {
                    attempts.push(Attempt { provider, failure: Some(chain(&error)) });
                    refused = Some(error);
                }
            }
        }
        let nobody =
            || LoadError::NoProvider { detail: "no backend of this agent offers any of them".to_owned() };
        Err(Error::Load { source: refused.unwrap_or_else(nobody) })
    }
}

fn check_batches(engine: &dyn Engine, max_batch_size: usize) -> Result<(), Error> {
    let signature = engine.signature();
    let fixed = signature.inputs.iter().chain(&signature.outputs).find(|spec| !spec.batches());
    match fixed {
        Some(spec) if max_batch_size > 0 => {
            Err(Error::DoesNotBatch { max_batch_size, tensor: spec.name.clone() })
        }
        _ => Ok(()),
    }
}

/// One run with zeros, every dynamic axis 1, so that the first request does not pay for lazy set-up.
fn warm_up(engine: &mut dyn Engine) -> Result<(), Error> {
    let inputs: Option<Vec<_>> = engine.signature().inputs.iter().map(zeros).collect();
    // There is no harmless value for text.
    let Some(inputs) = inputs else { return Ok(()) };
    let batch = Batch { members: vec![Member { id: MemberId(0), inputs }] };
    let ran = catch_unwind(AssertUnwindSafe(|| engine.run(&batch)))
        .unwrap_or_else(|_| Err(EngineError::Panicked { detail: "in the warm-up run".to_owned() }));
    ran.map(|_| ()).map_err(|source| Error::Warmup { source })
}

fn zeros(spec: &TensorSpec) -> Option<Tensor> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic(_) => 1,
    };
    let shape: Vec<_> = spec.shape.iter().map(size).collect();
    let bytes = element_count(&shape).ok()?.checked_mul(spec.datatype.size()?)?;
    Tensor::new(spec.datatype, shape, BufferMut::heap(bytes).freeze()).ok()
}
