//! Invariant 4: only `mast` reads configuration (environment included), installs signal handlers and exits.

use anyhow::Result;

use super::tree::{Tree, find};

const RESERVED: [&str; 8] = [
    "process::exit",
    "process::abort",
    "env::var",
    "env::args",
    "tokio::signal",
    "signal::unix",
    "sigaction",
    "mast.toml",
];

/// engine-ort reads the two variables of ONNX Runtime's own, `ORT_DYLIB_PATH` and `ORT_DISABLE_TELEMETRY`: that the second is set
/// is what it refuses to load a library without, and nobody may answer that for it.
/// engine-process names the system calls that a worker has left, among them one that installs handlers.
const EXCEPTIONS: [(&str, &str); 2] = [
    ("agent/engine-ort/src/library", "env::var"),
    ("agent/engine-process/src/worker/syscalls.rs", "sigaction"),
];

pub(super) fn check(tree: &Tree) -> Result<Vec<String>> {
    let others =
        tree.product().filter(|(path, _)| path.starts_with("agent/") && !path.starts_with("agent/mast/"));
    let excepted =
        |line: &str| EXCEPTIONS.iter().any(|(place, what)| line.starts_with(place) && line.ends_with(what));
    Ok(find(others, &RESERVED).into_iter().filter(|line| !excepted(line)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_takes_over() {
        let check = |path: &str, text: &str, count: usize| {
            assert_eq!(super::check(&Tree::of(&[(path, text)])).unwrap().len(), count, "{path}: {text}");
        };
        check("agent/serve/src/a.rs", "std::process::exit(1)", 1);
        check("agent/serve/src/a.rs", "std::env::var_os(\"HOME\")", 1);
        check("agent/engine-ort/src/library/search.rs", "std::env::var_os(\"ORT_DYLIB_PATH\")", 0);
        check("agent/engine-ort/src/library/search.rs", "std::process::exit(1)", 1);
        check("agent/mast/src/main.rs", "std::process::exit(1)", 0);
        check("agent/serve/src/a.rs", "// never calls process::exit", 0);
    }
}
