//! Records per second through the journal's own API, 64 tasks, 1 KiB, over the raw append and group fdatasync of this disk.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Programs, Row, Windows, median};

const LIMIT: f64 = 0.5;

pub(super) fn measure(programs: &Programs, windows: Windows) -> Result<Vec<Row>> {
    // The disk of the workspace, not a tmpfs: /tmp may be one.
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(&programs.ready.cache)?;
    let place = dir.path().to_string_lossy().into_owned();
    let args = [place, windows.seconds.to_string()];
    let rate = |value: Value| {
        value["records_per_s"].as_f64().with_context(|| format!("no records_per_s in {value}"))
    };
    let (mut ratios, mut floors) = (Vec::new(), Vec::new());
    for pair in 0..windows.pairs {
        let floor = rate(programs.measure(&programs.disk_floor, &args)?)?;
        let journal = rate(programs.measure(&programs.append, &args)?)?;
        println!("  outbox, pair {pair}: {journal:.0} against {floor:.0} records/s");
        ratios.push(journal / floor);
        floors.push(floor);
    }
    let name = "outbox records/s, 64 tasks, 1 KiB, over raw append + group fdatasync (floor in records/s)";
    Ok(vec![Row::at_least(name, median(ratios), "×", LIMIT).beside(median(floors))])
}
