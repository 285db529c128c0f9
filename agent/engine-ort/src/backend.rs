use std::path::PathBuf;

use engine::{
    Attempt, Backend, BuildProgress, Device, Engine, Footprint, LoadError, LoadOptions, Loaded, ModelSource,
    PendingBuild, Placement, Provider, SubgraphRunner,
};

use crate::device::{self, Cores, Gpu};
use crate::engine::OrtEngine;
use crate::error::one_line;
use crate::ffi::{Session, assigned_nodes};
use crate::placement::{assignments, check_required, main_provider};
use crate::providers::{Failures, Model, open, probe, refused, wanted};
use crate::tensorrt::{self, Plan, Profile};
use crate::{Config, Runtime};

/// ONNX Runtime on this machine: the processor, and the first GPU of the NVIDIA driver when there is one and the
/// library was compiled for it. Both are one backend, because a model's list falls from one to the other.
#[derive(Debug)]
pub struct OrtBackend {
    runtime: Runtime,
    cache_dir: Option<PathBuf>,
    cpu: Device,
    gpu: Option<Gpu>,
}

impl OrtBackend {
    /// Asks the machine what devices there are. What the library can do is found out by each load, so that every
    /// provider that cannot be used is reported with the runtime's own reason.
    pub fn new(runtime: &Runtime, config: &Config) -> Self {
        // While it can be read: later this may be a process without a file system.
        Cores::probe();
        Self {
            runtime: runtime.clone(),
            cache_dir: config.cache_dir.clone(),
            cpu: device::cpu(),
            gpu: Gpu::probe(),
        }
    }

    /// The processor, then the GPU where there is one.
    pub fn devices(&self) -> Vec<Device> {
        std::iter::once(self.cpu.clone()).chain(self.gpu.as_ref().map(Gpu::device)).collect()
    }

    fn device_of(&self, provider: Provider) -> Device {
        match provider {
            Provider::Cpu => self.cpu.clone(),
            _ => self.gpu.as_ref().map_or_else(
                || Device { id: "gpu:0".to_owned(), name: "NVIDIA GPU".to_owned() },
                Gpu::device,
            ),
        }
    }

    fn engine(
        &self,
        session: Session,
        chain: &[Provider],
        attempts: Vec<Attempt>,
    ) -> Result<OrtEngine, LoadError> {
        let idle = chain.last().copied().unwrap_or(Provider::Cpu);
        let placement = place(&session, attempts, idle, |provider| self.device_of(provider))?;
        OrtEngine::new(session, placement)
    }

    fn load_model(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
        failures: &mut Failures,
    ) -> Result<Loaded, LoadError> {
        let wanted = wanted(&options.providers);
        let mut chain = wanted.clone();
        chain.retain(|provider| !matches!(provider, Provider::TensorRt | Provider::Wgpu));
        if wanted.contains(&Provider::Wgpu) {
            failures.add(Provider::Wgpu, "not built into this version");
        }
        let tensorrt = self.can_build_tensorrt(&wanted, options, failures)?;
        if tensorrt && options.require == Some(Provider::TensorRt) {
            return self.load_on_tensorrt_alone(source, options, chain, failures.attempts(&wanted));
        }
        let opened = open(self.runtime.environment(), Model::File(&source.path), options, chain, failures);
        if let Some(required) = options.require
            && let Some(reason) = failures.of(required)
        {
            return Err(LoadError::Required { required, detail: format!("it cannot be used: {reason}") });
        }
        let (session, chain) = match opened {
            Err(LoadError::NoProvider { .. }) if tensorrt => {
                let attempts = failures.attempts(&wanted);
                return self.load_on_tensorrt_alone(source, options, Vec::new(), attempts);
            }
            opened => opened?,
        };
        let mut plan = None;
        if tensorrt {
            match tensorrt::profile(&session.signature()?) {
                Ok(profile) => {
                    let attempts = failures.attempts(&wanted);
                    plan = Some(self.plan(source, options, profile, chain.clone(), attempts));
                }
                Err(error) => failures.add(Provider::TensorRt, error.to_string()),
            }
        }
        let mut attempts = failures.attempts(&wanted);
        for attempt in attempts.iter_mut().filter(|attempt| attempt.provider == Provider::TensorRt) {
            let waits =
                if plan.is_some() { "its engine is still to be built" } else { "another is required" };
            attempt.failure.get_or_insert_with(|| waits.to_owned());
        }
        let engine = self.engine(session, &chain, attempts)?;
        if let Some(required) = options.require {
            check_required(&engine.placement().assignments, required)?;
        }
        let pending =
            plan.map(|plan| PendingBuild::new(Provider::TensorRt, move |progress| plan.build(progress)));
        Ok(Loaded { engine: Box::new(engine), pending })
    }

    /// Whether TensorRT is wanted and there; a model that requires another provider does not want it.
    fn can_build_tensorrt(
        &self,
        wanted: &[Provider],
        options: &LoadOptions,
        failures: &mut Failures,
    ) -> Result<bool, LoadError> {
        let required = options.require == Some(Provider::TensorRt);
        if !wanted.contains(&Provider::TensorRt) || options.require.is_some_and(|_| !required) {
            return match required {
                true => {
                    let detail = "it is not in the list".to_owned();
                    Err(LoadError::Required { required: Provider::TensorRt, detail })
                }
                false => Ok(false),
            };
        }
        let Err(error) = probe(self.runtime.environment(), Provider::TensorRt) else { return Ok(true) };
        let reason = one_line(error.message());
        failures.add(Provider::TensorRt, reason.as_str());
        if required {
            let detail = format!("it cannot be used: {reason}");
            return Err(LoadError::Required { required: Provider::TensorRt, detail });
        }
        Ok(false)
    }

    /// Builds before it serves, because nothing else may or can serve meanwhile. The CPU opens the model only to
    /// learn its signature.
    fn load_on_tensorrt_alone(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
        chain: Vec<Provider>,
        attempts: Vec<Attempt>,
    ) -> Result<Loaded, LoadError> {
        let model = Model::File(&source.path);
        let environment = self.runtime.environment();
        let (session, _) = open(environment, model, options, vec![Provider::Cpu], &mut Failures::default())?;
        let profile = tensorrt::profile(&session.signature()?)?;
        drop(session);
        let plan = self.plan(source, options, profile, chain, attempts);
        Ok(Loaded { engine: plan.build(&BuildProgress::default())?, pending: None })
    }

    fn plan(
        &self,
        source: &ModelSource,
        options: &LoadOptions,
        profile: Profile,
        chain: Vec<Provider>,
        attempts: Vec<Attempt>,
    ) -> Plan {
        Plan {
            runtime: self.runtime.clone(),
            source: source.clone(),
            options: options.clone(),
            profile,
            gpu: self.gpu.clone(),
            device: self.device_of(Provider::TensorRt),
            cache_dir: self.cache_dir.clone(),
            chain,
            attempts,
        }
    }
}

/// Reads back what the session runs where.
pub(crate) fn place(
    session: &Session,
    attempts: Vec<Attempt>,
    idle: Provider,
    device_of: impl Fn(Provider) -> Device,
) -> Result<Placement, LoadError> {
    let assignments = assignments(&assigned_nodes(session).map_err(refused)?)?;
    let provider = main_provider(&assignments, idle);
    Ok(Placement { provider, device: device_of(provider), attempts, assignments })
}

impl Backend for OrtBackend {
    /// The GPU where there is one, else the processor; a model's own device is in its placement.
    fn device(&self) -> Device {
        self.gpu.as_ref().map_or_else(|| self.cpu.clone(), Gpu::device)
    }

    /// What the library may have been compiled with.
    fn providers(&self) -> &[Provider] {
        &[Provider::TensorRt, Provider::Cuda, Provider::Cpu]
    }

    /// Private memory of this process. Device memory is not in it: nothing here asks the driver for it yet.
    fn used(&self) -> Option<Footprint> {
        Some(Footprint { host_bytes: device::private_bytes()?, device_bytes: 0 })
    }

    fn load(&self, source: &ModelSource, options: &LoadOptions) -> Result<Loaded, LoadError> {
        std::fs::File::open(&source.path).map_err(|source| LoadError::Read { source })?;
        self.load_model(source, options, &mut Failures::default())
    }
}

impl SubgraphRunner for OrtBackend {
    fn load_subgraph(&self, model: &[u8]) -> Result<Box<dyn Engine>, LoadError> {
        let options = LoadOptions { providers: vec![Provider::Cpu], ..LoadOptions::default() };
        let mut failures = Failures::default();
        let environment = self.runtime.environment();
        let (session, chain) =
            open(environment, Model::Memory(model), &options, options.providers.clone(), &mut failures)?;
        let attempts = failures.attempts(&chain);
        Ok(Box::new(self.engine(session, &chain, attempts)?))
    }
}
