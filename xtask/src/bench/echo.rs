//! Requests per second with a model that computes next to nothing, over an axum server that only sends the body back: what the
//! whole path but the model leaves of the HTTP stack's own speed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http::Request;
use harness::infer::{binary, f32_bytes};
use harness::load::{self, Until};
use harness::{Setup, onnx};

use super::{Programs, Row, Windows, median};

const CONCURRENCY: usize = 64;
/// Float32 values of 1 KiB.
const COLUMNS: u64 = 256;
const LIMIT: f64 = 0.4;

struct Echo {
    child: Child,
    address: SocketAddr,
}

impl Echo {
    fn start(programs: &Programs) -> Result<Self> {
        let mut child = Command::new(&programs.echo).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("echo printed {line:?}"))?;
        Ok(Self { child, address })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Nothing is left to do about a child that is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(super) fn measure(programs: &Programs, windows: Windows) -> Result<Vec<Row>> {
    let setup = Setup::new()?.program_at(&programs.mast);
    let toml =
        "providers = [\"cpu\"]\nthreads = 1\nspinning = false\nmax_batch_size = 64\nqueue_limit = 256\n";
    let agent = setup.model("tiny", &onnx::add_one(COLUMNS), toml)?.start()?;
    let echo = Echo::start(programs)?;
    let bytes = f32_bytes(&vec![1.0; usize::try_from(COLUMNS)?]);
    let to_mast = binary("tiny", "x", &[1, COLUMNS], &bytes);
    // The same bytes, head and all, so that both read the same body.
    let to_echo = Request::post("/echo", to_mast.body().to_vec());
    let window = Until::After(Duration::from_secs_f64(windows.seconds));
    let (mut ratios, mut floors) = (Vec::new(), Vec::new());
    for pair in 0..=windows.pairs {
        let floor = load::run(echo.address, &to_echo, CONCURRENCY, window)?.throughput();
        let outcome = load::run(agent.http, &to_mast, CONCURRENCY, window)?;
        ensure!(outcome.refused == 0, "refused under a load of {CONCURRENCY}");
        // The first pair warms both sides up.
        if pair > 0 {
            println!("  tiny model, pair {pair}: {:.0} against {floor:.0} requests/s", outcome.throughput());
            ratios.push(outcome.throughput() / floor);
            floors.push(floor);
        }
    }
    let name = format!(
        "requests/s, tiny model, 1 KiB, concurrency {CONCURRENCY}, over an axum echo (floor in requests/s)"
    );
    Ok(vec![Row::at_least(name, median(ratios), "×", LIMIT).beside(median(floors))])
}
