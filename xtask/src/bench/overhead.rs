//! What the daemon costs above ONNX Runtime alone: the same conv net, input and concurrency.
//!
//! Two floors, both one session per caller with IoBinding and no spinning threads. The first calls without a pause. No server
//! can do that: its engine sleeps until the next request is there, and then finds a processor that has to wake up and colder
//! caches, which a virtual machine makes worse. So at concurrency 1 there is a second one, which pauses before each call for as
//! long as the daemon's engine waited between two, measured in the window before.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::infer::{binary, f32_bytes};
use harness::load::{self, Until};
use harness::{Agent, Setup, files, http};

use super::{Programs, Row, Windows, median};

const SHAPE: [u64; 4] = [1, 3, 48, 192];
const CPU_LIMIT: f64 = 1.2;
const ADDED_LIMIT_US: f64 = 200.0;
/// What "1.0 to 1.3 CPU-ms on one thread" means for the model; outside it the ratios say something else.
const MODEL_MS: std::ops::RangeInclusive<f64> = 0.7..=2.0;

/// One window of either side.
pub(super) struct Window {
    pub(super) cpu_ms: f64,
    p50_us: f64,
    /// Between two calls of the engine; 0 for a floor.
    pause_us: f64,
}

/// One floor's pairs with the daemon.
#[derive(Default)]
struct Pairs {
    ratios: Vec<f64>,
    floors_ms: Vec<f64>,
    added_us: Vec<f64>,
}

impl Pairs {
    fn add(&mut self, daemon: &Window, floor: &Window) {
        self.ratios.push(daemon.cpu_ms / floor.cpu_ms);
        self.floors_ms.push(floor.cpu_ms);
        self.added_us.push(daemon.p50_us - floor.p50_us);
    }

    fn cpu(self, name: String) -> Row {
        Row::at_most(name, median(self.ratios), "×", CPU_LIMIT).beside(median(self.floors_ms))
    }
}

pub(super) fn measure(programs: &Programs, windows: Windows) -> Result<Vec<Row>> {
    let setup = Setup::new()?.program_at(&programs.mast);
    let model = std::fs::read(&programs.conv_net)?;
    let options = "providers = [\"cpu\"]\nthreads = 1\nspinning = false\n";
    files::add_model(setup.repository(), "conv", 1, &model, options)?;
    let agent = setup.start()?;
    let elements: usize = SHAPE.iter().map(|size| usize::try_from(*size)).product::<Result<usize, _>>()?;
    let values: Vec<f32> = (0..elements).map(|index| (index % 251) as f32 / 251.0).collect();
    let request = binary("conv", "image", &SHAPE, &f32_bytes(&values));
    // Threads, buffers and caches are warm before anything counts.
    load::run(agent.http, &request, 8, Until::After(Duration::from_secs(1)))?;

    let mut rows = Vec::new();
    for concurrency in [1_usize, 8] {
        let (mut hot, mut paced) = (Pairs::default(), Pairs::default());
        for pair in 0..windows.pairs {
            let floor = measure_floor(programs, windows, concurrency, 0.0)?;
            let daemon = measure_daemon(&agent, &request, windows, concurrency)?;
            let Window { cpu_ms, p50_us, pause_us } = daemon;
            print!("  concurrency {concurrency}, pair {pair}: {cpu_ms:.3} CPU-ms, p50 {p50_us:.0} µs");
            println!("; floor {:.3}, {:.0}", floor.cpu_ms, floor.p50_us);
            hot.add(&daemon, &floor);
            if concurrency == 1 {
                let floor = measure_floor(programs, windows, concurrency, pause_us)?;
                println!(
                    "    with pauses of {pause_us:.0} µs: floor {:.3}, {:.0}",
                    floor.cpu_ms, floor.p50_us
                );
                paced.add(&daemon, &floor);
            }
        }
        let floor_cpu_ms = median(hot.floors_ms.clone());
        if !MODEL_MS.contains(&floor_cpu_ms) {
            println!("  NOTE: the model takes {floor_cpu_ms:.2} CPU-ms here, made for 1.0 to 1.3");
        }
        let name = format!("CPU per request, concurrency {concurrency}, over ONNX Runtime alone");
        let added = |name: &str, pairs: &Pairs| {
            Row::at_most(name, median(pairs.added_us.clone()), "µs", ADDED_LIMIT_US)
        };
        if concurrency == 1 {
            rows.push(added(
                "added latency, p50, concurrency 1, to ONNX Runtime called without a pause",
                &hot,
            ));
            rows.push(added("added latency, p50, concurrency 1, to ONNX Runtime at the same pace", &paced));
            rows.push(paced.cpu(format!("{name} at the same pace (floor in CPU-ms)")));
        }
        rows.push(hot.cpu(format!("{name} called without a pause (floor in CPU-ms)")));
    }
    Ok(rows)
}

/// ONNX Runtime alone on the conv net.
pub(super) fn measure_floor(
    programs: &Programs,
    windows: Windows,
    concurrency: usize,
    pause_us: f64,
) -> Result<Window> {
    let model = programs.conv_net.to_string_lossy();
    let concurrency = concurrency.to_string();
    let (seconds, pause) = (windows.seconds.to_string(), format!("{pause_us:.0}"));
    let args = [&*model, "--concurrency", &concurrency, "--seconds", &seconds, "--pause-us", &pause];
    let floor = programs.measure(&programs.runtime_floor, &args)?;
    let field = |key: &str| floor[key].as_f64().with_context(|| format!("no {key} in {floor}"));
    Ok(Window { cpu_ms: field("cpu_ms_per_request")?, p50_us: field("p50_us")?, pause_us: 0.0 })
}

fn measure_daemon(
    agent: &Agent,
    request: &http::Request,
    windows: Windows,
    concurrency: usize,
) -> Result<Window> {
    let (cpu, computed) = (agent.process().cpu()?, compute_ns(agent, "conv")?);
    let until = Until::After(Duration::from_secs_f64(windows.seconds));
    let outcome = load::run(agent.http, request, concurrency, until)?;
    ensure!(outcome.refused == 0, "refused under a load of {concurrency}");
    let replies = outcome.replies as f64;
    let compute_us = (compute_ns(agent, "conv")? - computed) / replies / 1e3;
    Ok(Window {
        cpu_ms: (agent.process().cpu()? - cpu).as_secs_f64() * 1e3 / replies,
        p50_us: outcome.quantile(0.5).as_secs_f64() * 1e6,
        pause_us: (outcome.elapsed.as_secs_f64() * 1e6 / replies - compute_us).max(0.0),
    })
}

/// Time in the engine since the start, as the model's statistics count it.
pub(super) fn compute_ns(agent: &Agent, model: &str) -> Result<f64> {
    let stats = http::get(agent.http, &format!("/v2/models/{model}/stats"))?.json()?;
    let ns = &stats["model_stats"][0]["inference_stats"]["compute_infer"]["ns"];
    ns.as_f64().with_context(|| format!("no compute_infer in {stats}"))
}
