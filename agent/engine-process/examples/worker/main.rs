//! Workers for the tests of this crate: with ONNX Runtime, with an engine that misbehaves as its input says, with one
//! that tries what the sandbox forbids, and with none at all, to lie to the daemon. Production has no such thing: the
//! hooks are an engine like any other, on the worker's own terms.

mod attempts;
mod liar;
mod script;

use std::process::ExitCode;
use std::sync::Arc;

use engine::Backend;
use engine_ort::OrtBackend;
use mast_engine_process::{serve_worker, socket_from_stdin};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let lie = std::env::args().nth(1).filter(|arg| arg != "worker");
    let served = socket_from_stdin().and_then(|socket| match lie {
        Some(lie) => liar::serve(socket, &lie),
        None => serve_worker(socket, backend),
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the worker ended");
            ExitCode::FAILURE
        }
    }
}

fn backend(settings: &str) -> Result<Arc<dyn Backend>, String> {
    Ok(match settings {
        "script" => Arc::new(script::ScriptBackend),
        "attempts" => Arc::new(attempts::AttemptBackend),
        config => {
            let config = serde_json::from_str(config).map_err(|error| error.to_string())?;
            let runtime = engine_ort::load(&config).map_err(|error| error.to_string())?;
            Arc::new(OrtBackend::new(&runtime, &config))
        }
    })
}
