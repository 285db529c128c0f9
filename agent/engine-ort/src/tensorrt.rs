//! TensorRT: an engine is compiled for one model, one GPU and one driver, which takes minutes. So the model serves
//! on the next provider of its list while the build runs, and what was built is kept on disk.
//!
//! Cache folder, one per (model, GPU, driver): `<cache_dir>/<sha256 of model>-tensorrt-<gpu>-<driver>/`, with the
//! provider's own `.engine`, `.profile` and `.timing` files. A folder that the provider cannot use is deleted and
//! built anew, once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use engine::{
    Attempt, Batch, Buffer, BuildProgress, Device, Dim, Engine, LoadError, LoadOptions, Member, MemberId,
    ModelSource, Provider, Signature, Tensor, TensorSpec, element_count,
};
use ort::ep::{self, ExecutionProvider};
use sha2::{Digest, Sha256};

use crate::Runtime;
use crate::backend::place;
use crate::device::Gpu;
use crate::engine::OrtEngine;
use crate::error::one_line;
use crate::library::find_bytes;
use crate::options::session_options;
use crate::placement::check_required;
use crate::providers::{Model, register};

/// Rows an engine is compiled for: a batch outside of the profile would start a build of minutes inside a
/// request, so larger ones run in slices.
const MAX_ROWS: usize = 64;
/// Rows that the kernels are tuned for.
const TUNED_ROWS: usize = 8;

const POLL: Duration = Duration::from_millis(500);

/// Shapes that an engine is compiled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    signature: Signature,
    /// In the provider's notation, `name:1x3x224x224,...`; empty when every axis is fixed.
    min: String,
    tuned: String,
    max: String,
}

/// Everything a build needs, so that it can run on another thread, later.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) runtime: Runtime,
    pub(crate) source: ModelSource,
    pub(crate) options: LoadOptions,
    pub(crate) profile: Profile,
    pub(crate) gpu: Option<Gpu>,
    pub(crate) device: Device,
    pub(crate) cache_dir: Option<PathBuf>,
    /// Providers for the nodes that TensorRT leaves.
    pub(crate) chain: Vec<Provider>,
    pub(crate) attempts: Vec<Attempt>,
}

impl Plan {
    /// Minutes on a cold cache, seconds on a warm one.
    pub(crate) fn build(self, progress: &BuildProgress) -> Result<Box<dyn Engine>, LoadError> {
        let Some(cache) = self.cache_folder().map_err(|source| LoadError::Read { source })? else {
            return self.compile(None);
        };
        with_cache(&cache, || watch_engines(&cache, progress, || self.compile(Some(&cache))))
    }

    fn cache_folder(&self) -> io::Result<Option<PathBuf>> {
        let Some(cache_dir) = &self.cache_dir else { return Ok(None) };
        let digest = model_sha256(&self.source.path)?;
        let (gpu, driver) = match &self.gpu {
            Some(gpu) => (gpu.name.as_str(), gpu.driver.as_str()),
            None => (self.device.name.as_str(), "unknown"),
        };
        Ok(Some(cache_dir.join(cache_key(&digest, gpu, driver))))
    }

    /// Opens the session and runs it once: the provider compiles at the first run.
    fn compile(&self, cache: Option<&Path>) -> Result<Box<dyn Engine>, LoadError> {
        let build_failed = |error: ort::Error| LoadError::Build {
            provider: Provider::TensorRt,
            detail: one_line(error.message()),
        };
        let environment = self.runtime.environment();
        let mut builder = session_options(environment, &self.options, &self.chain).map_err(build_failed)?;
        self.provider(cache).register(&mut builder).map_err(build_failed)?;
        for provider in &self.chain {
            register(&mut builder, *provider, &self.options).map_err(build_failed)?;
        }
        let session = Model::File(&self.source.path).open(environment, &builder).map_err(build_failed)?;
        let placement = place(&session, self.attempts.clone(), Provider::TensorRt, |_| self.device.clone())?;
        if !placement.assignments.iter().any(|assignment| assignment.provider == Provider::TensorRt) {
            let detail = "it took none of the model's nodes".to_owned();
            return Err(LoadError::Build { provider: Provider::TensorRt, detail });
        }
        if let Some(required) = self.options.require {
            check_required(&placement.assignments, required)?;
        }
        let mut engine = OrtEngine::new(session, placement)?;
        if !self.profile.max.is_empty() {
            engine = engine.with_row_limit(MAX_ROWS);
        }
        engine
            .run(&zeros(&self.profile.signature)?)
            .map_err(|error| LoadError::Build { provider: Provider::TensorRt, detail: error.to_string() })?;
        Ok(Box::new(engine))
    }

    fn provider(&self, cache: Option<&Path>) -> ep::TensorRT {
        let mut provider = ep::TensorRT::default().with_device_id(0);
        if let Some(limit) = self.options.device_memory_limit_bytes.and_then(|limit| limit.try_into().ok()) {
            provider = provider.with_max_workspace_size(limit);
        }
        if !self.profile.max.is_empty() {
            provider = provider
                .with_profile_min_shapes(&self.profile.min)
                .with_profile_opt_shapes(&self.profile.tuned)
                .with_profile_max_shapes(&self.profile.max);
        }
        match cache {
            Some(cache) => provider
                .with_engine_cache(true)
                .with_engine_cache_path(cache.display())
                .with_timing_cache(true)
                .with_timing_cache_path(cache.display()),
            None => provider,
        }
    }
}

/// The name of a model's cache folder. Everything that makes a compiled engine useless elsewhere is in it.
pub(crate) fn cache_key(model_sha256: &str, gpu: &str, driver: &str) -> String {
    let plain = |text: &str| -> String {
        let plain =
            |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
        text.trim().chars().map(plain).collect()
    };
    format!("{}-tensorrt-{}-{}", plain(model_sha256), plain(gpu), plain(driver))
}

/// Digest of a model: its file, and every file beside it that it names (external data), in the order of names.
fn model_sha256(path: &Path) -> io::Result<String> {
    let model = fs::read(path)?;
    let mut digest = Sha256::new();
    digest.update(&model);
    let beside = fs::read_dir(path.parent().unwrap_or(Path::new(".")))?;
    let mut beside: Vec<_> = beside.collect::<io::Result<Vec<_>>>()?.iter().map(fs::DirEntry::path).collect();
    beside.sort();
    for file in beside.iter().filter(|file| file.as_path() != path && file.is_file()) {
        let name = file.file_name().unwrap_or_default().as_encoded_bytes();
        if find_bytes(&model, name).is_some() {
            digest.update(name);
            io::copy(&mut fs::File::open(file)?, &mut Hashed(&mut digest))?;
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Hashed<'a>(&'a mut Sha256);

impl io::Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The shapes to compile for, or why TensorRT would have to compile again and again for this model.
pub(crate) fn profile(signature: &Signature) -> Result<Profile, LoadError> {
    let unfit = |detail: String| Err(LoadError::Build { provider: Provider::TensorRt, detail });
    let mut texts: [Vec<String>; 3] = Default::default();
    for spec in &signature.inputs {
        if let Some(axis) = spec.shape.iter().skip(1).position(|dim| matches!(dim, Dim::Dynamic(_))) {
            return unfit(format!("axis {} of input {:?} is dynamic", axis + 1, spec.name));
        }
        if spec.name.contains([':', ',']) {
            return unfit(format!("the name of input {:?} cannot be in a profile", spec.name));
        }
        if spec.batches() {
            for (text, rows) in texts.iter_mut().zip([1, TUNED_ROWS, MAX_ROWS]) {
                let dims: Vec<_> = shape(spec, rows).iter().map(usize::to_string).collect();
                text.push(format!("{}:{}", spec.name, dims.join("x")));
            }
        }
    }
    let [min, tuned, max] = texts.map(|text| text.join(","));
    Ok(Profile { signature: signature.clone(), min, tuned, max })
}

fn shape(spec: &TensorSpec, rows: usize) -> Vec<usize> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic(_) => rows,
    };
    spec.shape.iter().map(size).collect()
}

/// One request of zeros.
fn zeros(signature: &Signature) -> Result<Batch, LoadError> {
    let zeros = |spec: &TensorSpec| {
        let shape = shape(spec, 1);
        // A BYTES element without content is four bytes of zero, too.
        let len = element_count(&shape).unwrap_or(0) * spec.datatype.size().unwrap_or(4);
        Tensor::new(spec.datatype, shape, Buffer::copy_from(&vec![0; len]))
            .map_err(|error| LoadError::Build { provider: Provider::TensorRt, detail: error.to_string() })
    };
    let inputs = signature.inputs.iter().map(zeros).collect::<Result<_, _>>()?;
    Ok(Batch { members: vec![Member { id: MemberId(0), inputs }] })
}

/// Compiles with a cache folder. When that fails on what an earlier run left there, once more on an empty one.
fn with_cache<T>(cache: &Path, mut compile: impl FnMut() -> Result<T, LoadError>) -> Result<T, LoadError> {
    let failed = |error: io::Error| LoadError::Build {
        provider: Provider::TensorRt,
        detail: format!("cannot prepare {}: {error}", cache.display()),
    };
    let was_used = prepare(cache).map_err(failed)?;
    let built = compile();
    if was_used && let Err(error) = &built {
        tracing::warn!(cache = %cache.display(), %error, "TensorRT cache cannot be used, building anew");
        fs::remove_dir_all(cache).and_then(|()| prepare(cache)).map_err(failed)?;
        return compile();
    }
    built
}

/// Makes the folder; whether something is in it.
fn prepare(cache: &Path) -> io::Result<bool> {
    fs::create_dir_all(cache)?;
    Ok(fs::read_dir(cache)?.next().is_some())
}

/// Counts the finished engines in `cache` while `build` runs.
fn watch_engines<T>(cache: &Path, progress: &BuildProgress, build: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, ended) = sync_channel::<()>(0);
        scope.spawn(move || {
            while ended.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                progress.set(count_engines(cache), None);
            }
        });
        let built = build();
        drop(done);
        progress.set(count_engines(cache), None);
        built
    })
}

fn count_engines(cache: &Path) -> u32 {
    let files = fs::read_dir(cache).into_iter().flatten().flatten();
    let engines = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "engine"));
    u32::try_from(engines.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
