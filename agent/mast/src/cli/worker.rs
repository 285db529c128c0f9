//! `mast worker`: models in a process of their own, started by `mast run`. Its socket is its stdin, its log is the
//! daemon's stderr; what it may do after its start is in `engine_process`.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use engine_ort::{OrtBackend, Runtime};
use engine_process::{WorkerProgram, serve_worker, socket_from_stdin};

use crate::config::{LogConfig, LogFormat};
use crate::exit::{Exit, chain};
use crate::logging;

/// What the libraries of a GPU are found by, and which GPU.
const PASSED_ON: [&str; 4] =
    ["LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"];

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    log_level: String,
    #[arg(long)]
    log_format: LogFormat,
}

/// How `mast run` starts this.
pub(crate) fn program(log: &LogConfig, onnxruntime: &engine_ort::Config, runtime: &Runtime) -> WorkerProgram {
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    // The very library that was checked, whatever the search would find later.
    let settings = engine_ort::Config { library: Some(runtime.path().to_owned()), ..onnxruntime.clone() };
    let passed_on = PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let fence = ("ORT_DISABLE_TELEMETRY".to_owned(), "1".to_owned());
    WorkerProgram {
        // The very program that runs here, also after an upgrade put another in its place.
        program: "/proc/self/exe".into(),
        args: ["worker", "--log-level", &log.level, "--log-format", format].map(str::to_owned).to_vec(),
        env: passed_on.chain([fence]).collect(),
        // A struct of paths and words: it cannot fail, and the worker refuses what it cannot read.
        settings: serde_json::to_string(&settings).unwrap_or_default(),
        readable: runtime.path().parent().map(Path::to_owned).into_iter().collect(),
        writable: onnxruntime.cache_dir.clone().into_iter().collect(),
    }
}

pub(crate) fn run(args: &WorkerArgs) -> Exit {
    const BY_HAND: &str = "mast worker is started by mast run, never by hand";
    let log = LogConfig { level: args.log_level.clone(), format: args.log_format, ..LogConfig::default() };
    if let Err(error) = logging::init(&log) {
        return super::complain(&error);
    }
    let socket = match socket_from_stdin() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(error = chain(&error), BY_HAND);
            return Exit::BadConfig;
        }
    };
    let served = serve_worker(socket, |settings| {
        let config = serde_json::from_str(settings).map_err(|error| chain(&error))?;
        let runtime = engine_ort::load(&config).map_err(|error| chain(&error))?;
        Ok(Arc::new(OrtBackend::new(&runtime, &config)))
    });
    match served {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!(error = chain(&error), "the worker ended");
            Exit::Failed
        }
    }
}
