use std::path::PathBuf;

use engine::{EngineError, LoadError};

/// Why a policy or a model could not be taken into use. Its text stays at the site: it may name paths.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}{}: {detail}", .line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Parse { what: &'static str, line: Option<usize>, detail: String },
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("there is no model of this name in the repository")]
    NoModel,
    #[error("the model's folder has no version: a folder named by a positive number")]
    NoVersion,
    #[error("version {version} has no {file}")]
    NoFile { version: u64, file: String },
    #[error("the configuration does not fit the model: {detail}")]
    Misfit { detail: String },
    #[error("there is no room for the model: {detail}")]
    Memory { detail: String },
    #[error("no backend could load the model")]
    Load {
        #[source]
        source: LoadError,
    },
    #[error("the {run} failed (warmup = false in model.toml skips it)")]
    Warmup {
        run: String,
        #[source]
        source: EngineError,
    },
    #[error("cannot start the engine's thread")]
    Thread {
        #[source]
        source: std::io::Error,
    },
}

/// A TOML error with its line, on one line.
pub(crate) fn located(what: &'static str, text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().and_then(|span| line_of(text, span.start));
    Error::Parse { what, line, detail: error.message().replace('\n', ", ") }
}

/// The line of a byte offset, counted from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> Option<usize> {
    text.get(..offset).map(|before| before.matches('\n').count() + 1)
}
