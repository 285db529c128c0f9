//! `floor DIR SECONDS`: what the disk gives at most. Appends groups of 64 records of 1 KiB to one file, one write and one
//! fdatasync a group, and prints `{"records_per_s":…}`. The other half of the ratio is `append`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const RECORD_BYTES: usize = 1024;
const GROUP: u32 = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(seconds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: floor DIR SECONDS".into());
    };
    let time = Duration::from_secs_f64(seconds.parse()?);
    let path = Path::new(&dir).join("floor");
    let mut file = File::create(&path)?;
    let group: Vec<u8> = (0..=u8::MAX).cycle().take(RECORD_BYTES * usize::try_from(GROUP)?).collect();
    let start = Instant::now();
    let mut records = 0;
    while start.elapsed() < time {
        file.write_all(&group)?;
        file.sync_data()?;
        records += GROUP;
    }
    let figure = f64::from(records) / start.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    writeln!(std::io::stdout(), "{}", serde_json::json!({ "records_per_s": figure.round() }))?;
    Ok(())
}
