//! A residency product ships no uploader: a runtime that contains one is refused, by looking at its bytes.

use anyhow::{Result, ensure};
use harness::{files, run_mast, workspace};

use crate::{assert_serves, setup_with_add};

const UPLOADER: &str = "https://mobile.events.data.microsoft.com/OneCollector/1.0";

#[test]
fn a_library_with_the_uploader_is_refused_unless_allowed_by_name() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("libonnxruntime.so.1.28.0");
    // The loader maps segments by their offsets: bytes behind them change nothing but what a scan sees.
    let mut library = std::fs::read(workspace::runtime_library()?)?;
    library.extend_from_slice(UPLOADER.as_bytes());
    files::write(&path, &library)?;
    let (status, said) = setup_with_add()?.env("ORT_DYLIB_PATH", &path).run_to_its_end()?;
    ensure!(status.code() == Some(65), "ended with {status}:\n{said}");
    ensure!(
        said.contains("telemetry") && said.contains("allow"),
        "does not say what and how to allow it:\n{said}"
    );
    let doctor = run_mast(&["doctor"], &[("ORT_DYLIB_PATH", path.as_os_str())])?;
    let shown = String::from_utf8_lossy(&doctor.stdout).into_owned();
    ensure!(shown.contains("telemetry") && !doctor.status.success(), "doctor: {shown}");
    let allowed = setup_with_add()?
        .config("[onnxruntime]\nallow_telemetry_library = \"1.28.0\"")
        .env("ORT_DYLIB_PATH", &path)
        .start()?;
    assert_serves(&allowed)?;
    let status = allowed.status()?;
    ensure!(status["runtime"]["telemetry"] != "none", "{status}");
    Ok(())
}

#[test]
fn the_pinned_library_has_none() -> Result<()> {
    let agent = setup_with_add()?.start()?;
    let status = agent.status()?;
    ensure!(status["runtime"]["telemetry"] == "none", "{status}");
    Ok(())
}
