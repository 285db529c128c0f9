//! `append DIR SECONDS`: the figure of `disk_floor` through the journal's own API: 64 tasks, each appends records of 1 KiB one after
//! the other; what is committed is acknowledged meanwhile so that the quota is never met. Prints `{"records_per_s":…}`.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mast_journal::{Error, Stream, StreamConfig};

const RECORD_BYTES: usize = 1024;
const TASKS: usize = 64;

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(seconds)) = (arguments.next(), arguments.next()) else {
        return Err("usage: append DIR SECONDS".into());
    };
    let time = Duration::from_secs_f64(seconds.parse()?);
    let dir = Path::new(&dir).join("append");
    let (stream, _) = Stream::open(&dir, StreamConfig::default())?;
    let start = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let stream = stream.clone();
            tokio::spawn(async move {
                let mut records = 0_u32;
                while start.elapsed() < time {
                    stream.append(vec![u8::try_from(task).unwrap_or(0); RECORD_BYTES]).await?;
                    records += 1;
                }
                Ok::<u32, Error>(records)
            })
        })
        .collect();
    let drain = tokio::spawn(drain(stream.clone()));
    let mut records = 0;
    for task in tasks {
        records += task.await??;
    }
    let figure = f64::from(records) / start.elapsed().as_secs_f64();
    drain.abort();
    drop(drain.await);
    drop(stream);
    std::fs::remove_dir_all(&dir)?;
    writeln!(std::io::stdout(), "{}", serde_json::json!({ "records_per_s": figure.round() }))?;
    Ok(())
}

async fn drain(stream: Stream) -> Result<(), Error> {
    let mut head = 0;
    loop {
        head = stream.committed(head + 16 * 1024).await?;
        let stream = stream.clone();
        tokio::task::spawn_blocking(move || stream.acknowledge(head)).await.map_err(|_| Error::Stopped)??;
    }
}
