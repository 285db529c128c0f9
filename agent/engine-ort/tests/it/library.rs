use std::path::{Path, PathBuf};

use mast_engine_ort::{Config, Error, Telemetry, inspect, load};

use crate::support::{config, library, runtime, write};

#[test]
fn the_library_is_what_it_says() {
    assert!(runtime().version().starts_with("1."));
    assert_eq!(runtime().telemetry(), Telemetry::None);
    let report = inspect(&library()).unwrap();
    assert_eq!(report.version.as_deref(), Some(runtime().version()));
    assert!(!report.telemetry && report.size_bytes > 1_000_000);
    let again = load(&config()).unwrap();
    assert_eq!(again.path(), runtime().path());
}

fn load_file(path: &Path, allowed: Option<&str>) -> Result<(), Error> {
    let allow_telemetry_library = allowed.map(str::to_owned);
    let config = Config { library: Some(path.to_owned()), allow_telemetry_library, ..Config::default() };
    load(&config).map(|_| ())
}

#[test]
fn files_that_cannot_be_the_library_have_their_own_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);

    let error = load_file(&path("missing.so"), None).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");

    write(&path("text.so"), b"INPUT(libonnxruntime.so.1) is a linker script\n");
    let error = load_file(&path("text.so"), None).unwrap_err();
    assert!(matches!(error, Error::NotALibrary { .. }), "{error}");

    let error = load_file(&system_library(), None).unwrap_err();
    assert!(matches!(error, Error::NotALibrary { .. }), "{error}");

    let mut foreign = std::fs::read(library()).unwrap();
    let machine: u16 = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    foreign[18..20].copy_from_slice(&machine.to_le_bytes());
    write(&path("foreign.so"), &foreign);
    let error = load_file(&path("foreign.so"), None).unwrap_err();
    assert!(matches!(error, Error::WrongArchitecture { .. }), "{error}");
    assert!(error.to_string().contains(std::env::consts::ARCH), "{error}");
}

#[test]
fn a_library_with_the_telemetry_uploader_needs_its_exact_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libonnxruntime.so");
    let mut bytes = std::fs::read(library()).unwrap();
    bytes.extend_from_slice(b"https://mobile.events.data.microsoft.com/OneCollector/1.0");
    write(&path, &bytes);
    let version = runtime().version();
    for allowed in [None, Some("1"), Some("1.31.1")] {
        match load_file(&path, allowed) {
            Err(Error::Telemetry { version: found, .. }) => assert_eq!(found.as_deref(), Some(version)),
            other => panic!("{allowed:?}: {other:?}"),
        }
    }
    // Allowed by name it passes the check, and then this process already has another library.
    let error = load_file(&path, Some(version)).unwrap_err();
    assert!(matches!(error, Error::AlreadyLoaded { .. }), "{error}");
}

#[test]
fn an_old_library_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libonnxruntime.so");
    let mut bytes = std::fs::read(library()).unwrap();
    let current = format!("\0VERS_{}\0", runtime().version());
    let at = bytes.windows(current.len()).position(|window| window == current.as_bytes()).unwrap();
    let old = "1.9.9";
    bytes[at + 6..at + 6 + old.len()].copy_from_slice(old.as_bytes());
    bytes[at + 6 + old.len()] = 0;
    write(&path, &bytes);
    match load_file(&path, None) {
        Err(Error::TooOld { version, .. }) => assert_eq!(version, old),
        other => panic!("{other:?}"),
    }
}

/// The C library of this process: a real shared object that is no ONNX Runtime.
fn system_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    paths.filter(|path| path.contains("libc.so") || path.contains("libc-")).map(PathBuf::from).next().unwrap()
}
