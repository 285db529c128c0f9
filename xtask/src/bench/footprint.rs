//! What the daemon takes before it does anything: bytes on disk, bytes in memory, milliseconds to be ready.

use std::time::Instant;

use anyhow::{Context, Result};
use harness::Setup;

use super::{Programs, Row, median};

const BINARY_LIMIT_MB: f64 = 20.0;
const RESIDENT_LIMIT_MIB: f64 = 15.0;
const READY_LIMIT_MS: f64 = 300.0;
const STARTS: usize = 7;

pub(super) fn measure(programs: &Programs) -> Result<Vec<Row>> {
    // The release profile strips.
    let binary_mb = std::fs::metadata(&programs.mast).context("no release build")?.len() as f64 / 1e6;
    let (mut resident, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let setup = Setup::new()?.program_at(&programs.mast);
        let started = Instant::now();
        let agent = setup.start()?;
        ready.push(started.elapsed().as_secs_f64() * 1e3);
        // The agent reads its own VmRSS just before it opens the library.
        let bytes = agent.status()?["resident_before_runtime_bytes"]
            .as_f64()
            .context("no resident_before_runtime_bytes")?;
        resident.push(bytes / f64::from(1 << 20));
    }
    Ok(vec![
        Row::at_most("binary, stripped", binary_mb, "MB", BINARY_LIMIT_MB),
        Row::at_most("resident before ONNX Runtime is loaded", median(resident), "MiB", RESIDENT_LIMIT_MIB),
        Row::at_most("start to ready, no models", median(ready), "ms", READY_LIMIT_MS),
    ])
}
