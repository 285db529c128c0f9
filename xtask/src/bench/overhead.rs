//! What the daemon costs above ONNX Runtime alone: the same conv net, input and concurrency, the floor being one session per
//! caller with IoBinding and no spinning threads.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::infer::{binary, f32_bytes};
use harness::load::{self, Until};
use harness::{Setup, files};

use super::{Programs, Row, Windows, median};

const SHAPE: [u64; 4] = [1, 3, 48, 192];
const CPU_LIMIT: f64 = 1.2;
const ADDED_LIMIT_US: f64 = 200.0;
/// What "1.0 to 1.3 CPU-ms on one thread" means for the model; outside it the ratios say something else.
const MODEL_MS: std::ops::RangeInclusive<f64> = 0.7..=2.0;

pub(super) fn measure(programs: &Programs, windows: Windows) -> Result<Vec<Row>> {
    let setup = Setup::new()?.program_at(&programs.mast);
    let model = std::fs::read(&programs.conv_net)?;
    files::add_model(
        setup.repository(),
        "conv",
        1,
        &model,
        "providers = [\"cpu\"]\nthreads = 1\nspinning = false\n",
    )?;
    let agent = setup.start()?;
    let elements: usize = SHAPE.iter().map(|size| usize::try_from(*size)).product::<Result<usize, _>>()?;
    let values: Vec<f32> = (0..elements).map(|index| (index % 251) as f32 / 251.0).collect();
    let request = binary("conv", "image", &SHAPE, &f32_bytes(&values));
    // Threads, buffers and caches are warm before anything counts.
    load::run(agent.http, &request, 8, Until::After(Duration::from_secs(1)))?;

    let mut rows = Vec::new();
    for concurrency in [1_usize, 8] {
        let (mut ratios, mut floors, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..windows.pairs {
            let floor = programs.measure(
                &programs.runtime_floor,
                &[
                    programs.conv_net.to_string_lossy().as_ref(),
                    "--concurrency",
                    &concurrency.to_string(),
                    "--seconds",
                    &windows.seconds.to_string(),
                ],
            )?;
            let field = |key: &str| floor[key].as_f64().with_context(|| format!("no {key} in {floor}"));
            let (floor_cpu_ms, floor_p50_us) = (field("cpu_ms_per_request")?, field("p50_us")?);
            let before = agent.process().cpu()?;
            let outcome = load::run(
                agent.http,
                &request,
                concurrency,
                Until::After(Duration::from_secs_f64(windows.seconds)),
            )?;
            let cpu_ms = (agent.process().cpu()? - before).as_secs_f64() * 1e3 / outcome.replies as f64;
            ensure!(outcome.refused == 0, "refused under a load of {concurrency}");
            let p50_us = outcome.quantile(0.5).as_secs_f64() * 1e6;
            println!(
                "  concurrency {concurrency}, pair {pair}: {cpu_ms:.3} against {floor_cpu_ms:.3} CPU-ms, p50 {p50_us:.0} against {floor_p50_us:.0} µs"
            );
            ratios.push(cpu_ms / floor_cpu_ms);
            floors.push(floor_cpu_ms);
            added.push(p50_us - floor_p50_us);
        }
        let floor_cpu_ms = median(floors);
        if !MODEL_MS.contains(&floor_cpu_ms) {
            println!("  NOTE: the model takes {floor_cpu_ms:.2} CPU-ms here, made for 1.0 to 1.3");
        }
        let name =
            format!("CPU per request, concurrency {concurrency}, over ONNX Runtime alone (floor in CPU-ms)");
        rows.push(Row::at_most(name, median(ratios), "×", CPU_LIMIT).beside(floor_cpu_ms));
        if concurrency == 1 {
            rows.push(Row::at_most("added latency, p50, concurrency 1", median(added), "µs", ADDED_LIMIT_US));
        }
    }
    Ok(rows)
}
