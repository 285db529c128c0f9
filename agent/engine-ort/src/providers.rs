//! Opening a session on the first providers of a list that work. Every failure is kept, none is silent.

use std::path::Path;

use engine::{Attempt, LoadError, LoadOptions, Provider};
use ort::environment::Environment;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{self, ArenaExtendStrategy, ExecutionProvider};
use ort::session::builder::SessionBuilder;
use ort::{Error, ErrorCode};

use crate::error::one_line;
use crate::ffi::Session;
use crate::options::session_options;

/// Where a model's bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Model<'a> {
    File(&'a Path),
    Memory(&'a [u8]),
}

impl Model<'_> {
    pub(crate) fn open(
        self,
        environment: &Environment,
        builder: &SessionBuilder,
    ) -> Result<Session, ort::Error> {
        match self {
            Model::File(path) => Session::from_file(environment, builder, path),
            Model::Memory(bytes) => Session::from_memory(environment, builder, bytes),
        }
    }
}

/// Why providers of one load could not be used, in the order found out.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<(Provider, String)>);

impl Failures {
    pub(crate) fn add(&mut self, provider: Provider, reason: impl Into<String>) {
        self.0.push((provider, reason.into()));
    }

    pub(crate) fn of(&self, provider: Provider) -> Option<&str> {
        self.0.iter().find(|(failed, _)| *failed == provider).map(|(_, reason)| reason.as_str())
    }

    /// One attempt per provider of the list.
    pub(crate) fn attempts(&self, wanted: &[Provider]) -> Vec<Attempt> {
        let attempt = |provider: &Provider| Attempt {
            provider: *provider,
            failure: self.of(*provider).map(str::to_owned),
        };
        wanted.iter().map(attempt).collect()
    }

    pub(crate) fn no_provider(&self) -> LoadError {
        let reasons: Vec<_> =
            self.0.iter().map(|(provider, reason)| format!("{provider}: {reason}")).collect();
        let detail = if reasons.is_empty() { "the list is empty".to_owned() } else { reasons.join("; ") };
        LoadError::NoProvider { detail }
    }
}

/// The list without repetitions, up to `cpu`: the runtime always asks the CPU last, and it can run anything.
pub(crate) fn wanted(providers: &[Provider]) -> Vec<Provider> {
    let mut wanted = Vec::new();
    for provider in providers {
        if !wanted.contains(provider) {
            wanted.push(*provider);
        }
        if *provider == Provider::Cpu {
            break;
        }
    }
    wanted
}

/// Opens `model` on `chain`; a provider that fails leaves the chain and the rest is tried. Gives the session and
/// the chain that worked.
///
/// # Errors
/// [`LoadError::Refused`] when the model itself is at fault, [`LoadError::NoProvider`] when the chain is used up.
pub(crate) fn open(
    environment: &Environment,
    model: Model<'_>,
    options: &LoadOptions,
    mut chain: Vec<Provider>,
    failures: &mut Failures,
) -> Result<(Session, Vec<Provider>), LoadError> {
    while let Some(first) = chain.first().copied() {
        let mut builder = session_options(environment, options, &chain).map_err(refused)?;
        let register = |provider: &Provider| {
            register(&mut builder, *provider, options).err().map(|error| (*provider, error))
        };
        if let Some((provider, error)) = chain.iter().find_map(register) {
            failures.add(provider, one_line(error.message()));
            chain.retain(|member| *member != provider);
            continue;
        }
        match model.open(environment, &builder) {
            Ok(session) => return Ok((session, chain)),
            Err(error) if first == Provider::Cpu || is_the_models_fault(&error) => {
                return Err(refused(error));
            }
            Err(error) => {
                failures.add(first, one_line(error.message()));
                chain.remove(0);
            }
        }
    }
    Err(failures.no_provider())
}

pub(crate) fn register(
    builder: &mut SessionBuilder,
    provider: Provider,
    options: &LoadOptions,
) -> Result<(), Error> {
    match provider {
        Provider::Cpu => ep::CPU::default().with_arena_allocator(true).register(builder),
        Provider::Cuda => cuda(options).register(builder),
        Provider::TensorRt => ep::TensorRT::default().with_device_id(0).register(builder),
        Provider::Wgpu => Err(Error::new("not built into this version")),
    }
}

fn cuda(options: &LoadOptions) -> ep::CUDA {
    // Exhaustive search, the default, times every algorithm again for each new batch size.
    let cuda = ep::CUDA::default().with_device_id(0);
    let cuda = cuda.with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic);
    match options.device_memory_limit_bytes.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) => {
            // Doubling would run into the limit at half of it.
            cuda.with_memory_limit(limit).with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        }
        None => cuda,
    }
}

/// Finds out whether a provider's libraries and device are there, on options that are thrown away.
pub(crate) fn probe(environment: &Environment, provider: Provider) -> Result<(), Error> {
    let mut builder = SessionBuilder::new(environment)?;
    register(&mut builder, provider, &LoadOptions::default())
}

fn is_the_models_fault(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::InvalidProtobuf | ErrorCode::InvalidGraph | ErrorCode::NoModel | ErrorCode::NoSuchFile
    )
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn refused(error: Error) -> LoadError {
    LoadError::Refused { detail: one_line(error.message()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Provider::{Cpu, Cuda, TensorRt};

    #[test]
    fn the_list_ends_at_cpu() {
        assert_eq!(wanted(&[TensorRt, Cuda, TensorRt, Cpu, Cuda]), [TensorRt, Cuda, Cpu]);
        assert_eq!(wanted(&[Cpu, Cuda]), [Cpu]);
        assert_eq!(wanted(&[]), []);
    }
}
