//! Finding, checking and opening the runtime's library.

mod elf;
mod scan;
mod search;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use serde::{Deserialize, Serialize};

pub(crate) use scan::find as find_bytes;

use crate::Error;
use crate::error::one_line;

/// Which library to use and where engines that took minutes to build are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The library file. Unset: `ORT_DYLIB_PATH`, then `/usr/lib/mast`, then a checkout's `.cache/onnxruntime`.
    pub library: Option<PathBuf>,
    /// The one version ("1.31.1") that may be used although it holds the telemetry uploader.
    pub allow_telemetry_library: Option<String>,
    /// Folder for TensorRT engines and timing caches. Unset: every start builds them anew.
    pub cache_dir: Option<PathBuf>,
}

/// What the file of a library says, read without opening it as a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryReport {
    pub path: PathBuf,
    /// From the symbol version that the official build script gives every export.
    pub version: Option<String>,
    /// "x86_64", "aarch64".
    pub architecture: &'static str,
    /// Whether the telemetry uploader's host is in the file.
    pub telemetry: bool,
    pub size_bytes: u64,
}

/// Whether the open library could send telemetry if it were let.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telemetry {
    /// The uploader is not in the file.
    None,
    /// It is, the operator allowed this version by name, and `ORT_DISABLE_TELEMETRY` keeps it off.
    AllowedByName,
}

/// The open runtime. There is one per process and it stays open until the process ends; clones share it.
#[derive(Debug, Clone)]
pub struct Runtime(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    environment: Environment,
    report: LibraryReport,
    telemetry: Telemetry,
}

impl Runtime {
    pub fn path(&self) -> &Path {
        &self.0.report.path
    }

    /// "1.28.0"; "unknown" for a build that does not carry it.
    pub fn version(&self) -> &str {
        self.0.report.version.as_deref().unwrap_or("unknown")
    }

    pub fn telemetry(&self) -> Telemetry {
        self.0.telemetry
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.0.environment
    }
}

/// ONNX Runtime allows one environment per process, and a library cannot be closed again safely.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// Finds, checks and opens the library. A second call with the same library gives the same runtime.
///
/// # Errors
/// [`Error`]; nothing of a refused file has run, except with [`Error::Load`].
pub fn load(config: &Config) -> Result<Runtime, Error> {
    if !telemetry_is_off(std::env::var_os("ORT_DISABLE_TELEMETRY").as_deref()) {
        return Err(Error::TelemetryNotDisabled);
    }
    let (report, telemetry) = examine(config)?;
    let path = report.path.clone();
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = runtime.as_ref() {
        return match runtime.path() == path {
            true => Ok(runtime.clone()),
            false => Err(Error::AlreadyLoaded { loaded: runtime.path().to_owned(), asked: path }),
        };
    }
    let environment = open(&path)?;
    tracing::info!(path = %path.display(), version = report.version, "ONNX Runtime loaded");
    Ok(runtime.insert(Runtime(Arc::new(Opened { environment, report, telemetry }))).clone())
}

/// The library that [`load`] would use, as an absolute path.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find(config: &Config) -> Result<PathBuf, Error> {
    search::find(config.library.as_deref(), &search::Places::of_this_process())
}

/// Reads a library's file without running any of it, in bounded memory.
///
/// # Errors
/// [`Error::Read`], [`Error::NotALibrary`], [`Error::WrongArchitecture`].
pub fn inspect(path: &Path) -> Result<LibraryReport, Error> {
    let read = |source| Error::Read { path: path.to_owned(), source };
    let mut file = std::fs::File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let not_a_library = |reason| Error::NotALibrary { path: path.to_owned(), reason };
    if !metadata.is_file() {
        return Err(not_a_library("it is no regular file"));
    }
    let findings = match elf::read_machine(&mut file).map_err(read)? {
        elf::Machine::NotElf(reason) => return Err(not_a_library(reason)),
        elf::Machine::Other(found) => {
            return Err(Error::WrongArchitecture {
                path: path.to_owned(),
                found,
                expected: elf::THIS_ARCHITECTURE,
            });
        }
        elf::Machine::This => scan::scan(&mut file).map_err(read)?,
    };
    if !findings.exports_api {
        return Err(not_a_library("it does not export OrtGetApiBase"));
    }
    Ok(LibraryReport {
        path: path.to_owned(),
        version: findings.version,
        architecture: elf::THIS_ARCHITECTURE,
        telemetry: findings.telemetry,
        size_bytes: metadata.len(),
    })
}

/// What [`load`] would say of the library it would use, without opening it.
///
/// # Errors
/// Those of [`load`], but for what only opening can find out.
pub fn examine(config: &Config) -> Result<(LibraryReport, Telemetry), Error> {
    let report = inspect(&find(config)?)?;
    let telemetry = check(&report, config)?;
    Ok((report, telemetry))
}

fn telemetry_is_off(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| value == "1")
}

/// What the report alone forbids.
fn check(report: &LibraryReport, config: &Config) -> Result<Telemetry, Error> {
    let path = report.path.clone();
    if let Some(version) = &report.version
        && !new_enough(version)
    {
        let required = format!("1.{}.0", ort::MINOR_VERSION);
        return Err(Error::TooOld { path, version: version.clone(), required });
    }
    match (report.telemetry, &report.version, &config.allow_telemetry_library) {
        (false, _, _) => Ok(Telemetry::None),
        (true, Some(version), Some(allowed)) if version == allowed => Ok(Telemetry::AllowedByName),
        (true, _, _) => Err(Error::Telemetry { path, version: report.version.clone() }),
    }
}

fn new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(1), Some(ort::MINOR_VERSION))
}

fn open(path: &Path) -> Result<Environment, Error> {
    let failed = |detail: String| Error::Load { path: path.to_owned(), detail: one_line(&detail) };
    let builder = ort::init_from(path).map_err(|error| match error {
        ort::LoadDynamicError::BadVersion { version_str, path } => {
            Error::TooOld { path, version: version_str, required: format!("1.{}.0", ort::MINOR_VERSION) }
        }
        ort::LoadDynamicError::MissingApi { path } => {
            Error::NotALibrary { path, reason: "it does not export OrtGetApiBase" }
        }
        other => failed(other.to_string()),
    })?;
    let environment = builder
        .with_name("mast")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|error| failed(error.to_string()))?;
    // Formatting a message that nobody reads costs a load several hundred lines.
    let verbose = tracing::enabled!(target: "onnxruntime", tracing::Level::TRACE);
    environment.set_log_level(if verbose { LogLevel::Verbose } else { LogLevel::Warning });
    Ok(environment)
}

fn log(level: LogLevel, _category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal | LogLevel::Error => tracing::error!(target: "onnxruntime", location, "{message}"),
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", location, "{message}"),
        LogLevel::Info => tracing::debug!(target: "onnxruntime", location, "{message}"),
        LogLevel::Verbose => tracing::trace!(target: "onnxruntime", location, "{message}"),
    }
}

#[cfg(test)]
mod tests;
