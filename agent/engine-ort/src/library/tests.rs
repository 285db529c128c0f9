use std::fs::File;
use std::io::Write;

use super::*;

fn report(version: Option<&str>, telemetry: bool) -> LibraryReport {
    LibraryReport {
        path: PathBuf::from("libonnxruntime.so"),
        version: version.map(str::to_owned),
        architecture: elf::THIS_ARCHITECTURE,
        telemetry,
        size_bytes: 1,
    }
}

#[test]
fn telemetry_needs_the_exact_version_by_name() {
    let check = |version: Option<&str>, telemetry, allowed: Option<&str>| {
        let config = Config { allow_telemetry_library: allowed.map(str::to_owned), ..Config::default() };
        check(&report(version, telemetry), &config)
    };
    assert!(matches!(check(Some("1.28.0"), false, None), Ok(Telemetry::None)));
    assert!(matches!(check(None, false, None), Ok(Telemetry::None)));
    assert!(matches!(check(Some("1.31.1"), true, Some("1.31.1")), Ok(Telemetry::AllowedByName)));
    for allowed in [None, Some(""), Some("1.31"), Some("1.31.0"), Some("*")] {
        assert!(matches!(check(Some("1.31.1"), true, allowed), Err(Error::Telemetry { .. })), "{allowed:?}");
    }
    assert!(matches!(check(None, true, Some("unknown")), Err(Error::Telemetry { version: None, .. })));
}

#[test]
fn old_versions_are_refused_before_they_are_opened() {
    for (version, ok) in
        [("1.27.9", false), ("0.99.0", false), ("1.28.0", true), ("1.131.0", true), ("2.0", true)]
    {
        assert_eq!(check(&report(Some(version), false), &Config::default()).is_ok(), ok, "{version}");
    }
}

#[test]
fn telemetry_is_off_only_when_the_variable_is_one() {
    for (value, off) in
        [(None, false), (Some(""), false), (Some("0"), false), (Some("true"), false), (Some("1"), true)]
    {
        assert_eq!(telemetry_is_off(value.map(OsStr::new)), off, "{value:?}");
    }
}

/// A 64-bit little-endian ELF shared object's header for `machine`, then `rest`.
fn elf_file(dir: &Path, machine: u16, rest: &[u8]) -> PathBuf {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend_from_slice(&3_u16.to_le_bytes());
    bytes.extend_from_slice(&machine.to_le_bytes());
    bytes.extend_from_slice(rest);
    let path = dir.join(format!("machine-{machine}-{}.so", rest.len()));
    File::create(&path).unwrap().write_all(&bytes).unwrap();
    path
}

#[test]
fn files_that_are_no_library_are_named_before_they_run() {
    let dir = tempfile::tempdir().unwrap();
    let this = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let other = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
    let text = dir.path().join("text.so");
    File::create(&text).unwrap().write_all(b"a text that is long enough for a header").unwrap();
    let short = dir.path().join("short.so");
    File::create(&short).unwrap().write_all(b"\x7fELF").unwrap();

    for path in [&text, &short, &elf_file(dir.path(), this, b"nothing"), dir.path()] {
        let error = inspect(path).unwrap_err();
        assert!(matches!(error, Error::NotALibrary { .. }), "{}: {error}", path.display());
    }
    let error = inspect(&elf_file(dir.path(), other, b"\0OrtGetApiBase\0")).unwrap_err();
    assert!(matches!(error, Error::WrongArchitecture { .. }), "{error}");
    let error = inspect(&dir.path().join("missing.so")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");

    let marks = b"\0OrtGetApiBase\0\0VERS_1.31.1\0https://mobile.events.data.microsoft.com/OneCollector/1.0";
    let report = inspect(&elf_file(dir.path(), this, marks)).unwrap();
    assert!(report.telemetry);
    assert_eq!(report.version.as_deref(), Some("1.31.1"));
}

#[test]
fn the_search_takes_the_named_place_or_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let cache = root.join(".cache/onnxruntime");
    let arch = elf::THIS_ARCHITECTURE;
    let mut files = Vec::new();
    for name in [format!("1.9.0-{arch}"), format!("1.28.0-{arch}"), "1.99.0-other".to_owned()] {
        std::fs::create_dir_all(cache.join(&name)).unwrap();
        files.push(cache.join(&name).join("libonnxruntime.so.1"));
        File::create(files.last().unwrap()).unwrap();
    }
    let deep = root.join("agent/engine");
    std::fs::create_dir_all(&deep).unwrap();
    let places = |named: Option<&Path>, package_dir: &Path| search::Places {
        named: named.map(Path::to_owned),
        package_dir: package_dir.to_owned(),
        below_checkout: vec![deep.clone()],
    };
    let nowhere = root.join("nowhere");
    assert_eq!(search::find(None, &places(None, &nowhere)).unwrap(), files[1]);
    assert_eq!(search::find(None, &places(Some(&files[0]), &nowhere)).unwrap(), files[0]);
    assert_eq!(search::find(Some(&files[2]), &places(Some(&files[0]), &nowhere)).unwrap(), files[2]);
    let package = root.join("package");
    std::fs::create_dir_all(&package).unwrap();
    for name in [
        "libonnxruntime.so.1.9.0",
        "libonnxruntime.so.1.28.0",
        "libonnxruntime.so.1.28.0.sha256",
        "libonnxruntime_providers_shared.so",
    ] {
        File::create(package.join(name)).unwrap();
    }
    assert_eq!(
        search::find(None, &places(None, &package)).unwrap(),
        package.join("libonnxruntime.so.1.28.0")
    );
    // A named place that is missing is an error, not a reason to look elsewhere.
    let error = search::find(Some(&nowhere), &places(None, &package)).unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { searched } if searched == std::slice::from_ref(&nowhere)),
        "{error}"
    );
}
