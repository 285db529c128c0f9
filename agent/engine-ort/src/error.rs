use std::path::PathBuf;

/// Why the runtime's library cannot be used. A model's own errors are `engine::LoadError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no ONNX Runtime library found; searched {}", list(searched))]
    NotFound { searched: Vec<PathBuf> },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not an ONNX Runtime library: {reason}", path.display())]
    NotALibrary { path: PathBuf, reason: &'static str },
    #[error("{} is built for {found}, this machine is {expected}", path.display())]
    WrongArchitecture { path: PathBuf, found: String, expected: &'static str },
    #[error("{} is ONNX Runtime {version}, Mast needs {required} or newer", path.display())]
    TooOld { path: PathBuf, version: String, required: String },
    #[error(
        "{} (version {}) holds a telemetry uploader; use another build, or allow exactly this version by name",
        path.display(),
        version.as_deref().unwrap_or("unknown")
    )]
    Telemetry { path: PathBuf, version: Option<String> },
    #[error("ORT_DISABLE_TELEMETRY=1 must be in the environment before any thread starts")]
    TelemetryNotDisabled,
    #[error("cannot open {}: {detail}", path.display())]
    Load { path: PathBuf, detail: String },
    #[error("this process already runs {}; {} needs a restart", loaded.display(), asked.display())]
    AlreadyLoaded { loaded: PathBuf, asked: PathBuf },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// The first line of the runtime's text without its source position, at most 400 characters.
pub(crate) fn one_line(text: &str) -> String {
    const LIMIT: usize = 400;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given");
    // "/onnxruntime_src/...:1988 void f() [ONNXRuntimeError] : 1 : FAIL : what happened"
    let after_position =
        line.split_once("[ONNXRuntimeError] : ").and_then(|(_, rest)| rest.splitn(3, " : ").nth(2));
    let line = after_position.filter(|rest| !rest.is_empty()).unwrap_or(line);
    match line.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or(line)),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_one_line() {
        for (text, expected) in [
            ("", "no reason given".to_owned()),
            ("\n  first \n second", "first".to_owned()),
            ("/src/a.cc:1 T f() [ONNXRuntimeError] : 1 : FAIL : no lib : b\n", "no lib : b".to_owned()),
            ("[ONNXRuntimeError] : 1", "[ONNXRuntimeError] : 1".to_owned()),
            (&"é".repeat(401), format!("{}...", "é".repeat(400))),
        ] {
            assert_eq!(one_line(text), expected);
        }
    }
}
