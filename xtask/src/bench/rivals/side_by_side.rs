//! Every server on the same conv net, the same ONNX Runtime, one thread without spinning, one session: requests a second, p99,
//! CPU. A round is one window of each server and of the floor, so that a busy neighbour hits all; ratios are made within a round.
//!
//! The floor at concurrency 1 is ONNX Runtime alone at the pace of the server beside it, at concurrency 8 as many callers without
//! a pause: see [`crate::bench::overhead`]. A rival's CPU above the floor is what it takes beside the model.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, ensure};
use harness::infer::{binary, f32_bytes, json};
use harness::load::grpc;
use harness::{Agent, Setup, files};

use super::lane::{Call, Lane, Window};
use super::server::{MODEL, RIVALS, Server};
use super::{Findings, Scale};
use crate::bench::overhead::{compute_ns, measure_floor};
use crate::bench::{Programs, Row, median, number};

const SHAPE: [u64; 4] = [1, 3, 48, 192];
const CONCURRENCIES: [usize; 3] = [1, 8, 64];
/// What is asked of each of our protocols: CPU over the floor.
const OURS: [(&str, f64); 2] = [("Mast, HTTP binary", 1.15), ("Mast, gRPC", 1.2)];

/// What the rounds saw: by lane and concurrency, one window a round.
type Windows = BTreeMap<(usize, usize), Vec<Window>>;

struct Floors {
    /// By our lane: ONNX Runtime alone at its pace, one caller.
    paced_ms: BTreeMap<usize, Vec<f64>>,
    /// Eight callers without a pause.
    hot_ms: Vec<f64>,
}

pub(super) fn measure(programs: &Programs, scale: Scale) -> Result<Findings> {
    let elements = SHAPE.iter().product::<u64>();
    // Eighths of a power of two: their decimal text is short, which favours the JSON of others.
    let values: Vec<f32> = (0..elements).map(|index| (index % 251) as f32 / 256.0).collect();
    let bytes = f32_bytes(&values);
    let shape = SHAPE.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    let message = grpc::message(MODEL, &[("image", "FP32", &shape, &bytes)])?;
    let in_binary = binary(MODEL, "image", &SHAPE, &bytes);
    let in_json = json(MODEL, "image", &SHAPE, &values);

    let setup = Setup::new()?.program_at(&programs.mast);
    let model = std::fs::read(&programs.conv_net)?;
    let options = "providers = [\"cpu\"]\nthreads = 1\nspinning = false\nqueue_limit = 256\n";
    files::add_model(setup.repository(), MODEL, 1, &model, options)?;
    let agent = setup.start()?;
    let lane =
        |name: &str, pid, address, call| Lane { name: name.to_owned(), ours: false, pid, address, call };
    let pid = agent.process().id();
    let mut lanes = vec![
        Lane { ours: true, ..lane(OURS[0].0, pid, agent.http, Call::Http(in_binary.clone())) },
        Lane { ours: true, ..lane(OURS[1].0, pid, agent.grpc, Call::Grpc(message.clone())) },
    ];
    let expected = lanes[0].answer()?;

    let (mut missing, mut servers) = (Vec::new(), Vec::<Server>::new());
    for rival in &RIVALS {
        let server = match rival.start(&programs.ready.cache, &programs.conv_net) {
            Ok(server) => server,
            Err(error) => {
                println!("  NOT IN THE TABLE: {}: {error:#}", rival.name);
                missing.push(format!("{}: {error:#}", rival.name));
                continue;
            }
        };
        let pid = server.pid();
        let named = |protocol: &str| format!("{}, {protocol}", rival.name);
        lanes.push(lane(&named("gRPC"), pid, server.grpc, Call::Grpc(message.clone())));
        match rival.http {
            Some("JSON") => lanes.push(lane(&named("JSON"), pid, server.http, Call::Http(in_json.clone()))),
            Some(other) => lanes.push(lane(&named(other), pid, server.http, Call::Http(in_binary.clone()))),
            None => {}
        }
        servers.push(server);
    }
    lanes.retain(|lane| match same(&lane.answer(), &expected) {
        Ok(()) => true,
        Err(error) => {
            println!("  NOT IN THE TABLE: {}: {error:#}", lane.name);
            missing.push(format!("{}: {error:#}", lane.name));
            false
        }
    });
    ensure!(lanes.iter().filter(|lane| lane.ours).count() == OURS.len(), "Mast itself does not answer");
    ensure!(lanes.iter().any(|lane| !lane.ours), "no rival answers: {}", missing.join("; "));

    let (windows, floors) = rounds(programs, scale, &agent, &lanes)?;
    Ok(Findings { rows: rows(&lanes, &windows, &floors), text: table(&lanes, &windows, &floors, &missing) })
}

/// Every server must have computed the same: the session's own rounding apart.
fn same(answer: &Result<Vec<f32>>, expected: &[f32]) -> Result<()> {
    let answer = answer.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-3 * b.abs().max(1.0);
    ensure!(
        answer.len() == expected.len() && answer.iter().zip(expected).all(near),
        "another answer: {answer:?}, not {expected:?}"
    );
    Ok(())
}

fn rounds(programs: &Programs, scale: Scale, agent: &Agent, lanes: &[Lane]) -> Result<(Windows, Floors)> {
    let mut windows = Windows::new();
    let mut floors = Floors { paced_ms: BTreeMap::new(), hot_ms: Vec::new() };
    for concurrency in CONCURRENCIES {
        // The first round warms all up, and counts for nothing.
        for round in 0..=scale.windows.pairs {
            let seconds = if round == 0 { scale.windows.seconds.min(1.0) } else { scale.windows.seconds };
            for (index, lane) in lanes.iter().enumerate() {
                let computed_ns = if lane.ours { compute_ns(agent, MODEL)? } else { 0.0 };
                let window = lane.window(concurrency, seconds)?;
                if round == 0 {
                    continue;
                }
                println!(
                    "  concurrency {concurrency}, round {round}: {:60} {:6.0} /s  p50 {:7.2}  p99 {:7.2} ms  {:6.3} CPU-ms",
                    lane.name, window.per_second, window.p50_ms, window.p99_ms, window.cpu_ms
                );
                windows.entry((index, concurrency)).or_default().push(window);
                if lane.ours && concurrency == 1 {
                    let replies = window.per_second * seconds;
                    let compute_us = (compute_ns(agent, MODEL)? - computed_ns) / replies / 1e3;
                    let pause_us = (1e6 / window.per_second - compute_us).max(0.0);
                    let floor = measure_floor(programs, scale.windows, 1, pause_us)?;
                    floors.paced_ms.entry(index).or_default().push(floor.cpu_ms);
                }
            }
            if round > 0 && concurrency == 8 {
                floors.hot_ms.push(measure_floor(programs, scale.windows, concurrency, 0.0)?.cpu_ms);
            }
        }
    }
    Ok((windows, floors))
}

fn rows(lanes: &[Lane], windows: &Windows, floors: &Floors) -> Vec<Row> {
    let seen = |lane: usize, concurrency: usize, value: fn(&Window) -> f64| -> Vec<f64> {
        windows.get(&(lane, concurrency)).into_iter().flatten().map(value).collect()
    };
    let rivals = || (0..lanes.len()).filter(|index| !lanes[*index].ours);
    // The rival with the greatest median of `value`.
    let best = |concurrency, value: fn(&Window) -> f64| {
        let of = |index: &usize| median(seen(*index, concurrency, value));
        rivals().max_by(|a, b| of(a).total_cmp(&of(b))).unwrap_or_default()
    };
    let ratio = |ours: &[f64], theirs: &[f64]| median(ours.iter().zip(theirs).map(|(a, b)| a / b).collect());
    let mut rows = Vec::new();
    for (index, (name, cpu_limit)) in OURS.into_iter().enumerate() {
        for concurrency in [8, 64] {
            let rival = best(concurrency, |window| window.per_second);
            let theirs = seen(rival, concurrency, |window| window.per_second);
            let value = ratio(&seen(index, concurrency, |window| window.per_second), &theirs);
            let what = format!(
                "requests/s, concurrency {concurrency}, {name}, over {} (floor in requests/s)",
                lanes[rival].name
            );
            rows.push(Row::at_least(what, value, "×", 1.5).beside(median(theirs)));
        }
        let rival = best(8, |window| -window.p99_ms);
        let theirs = seen(rival, 8, |window| window.p99_ms);
        let value = ratio(&seen(index, 8, |window| window.p99_ms), &theirs);
        let what = format!("p99, concurrency 8, {name}, over {} (floor in ms)", lanes[rival].name);
        rows.push(Row::at_most(what, value, "×", 1.0).beside(median(theirs)));

        let rival = best(8, |window| -window.cpu_ms);
        let ours = seen(index, 8, |window| window.cpu_ms);
        let above = |values: &[f64]| -> Vec<f64> {
            values.iter().zip(&floors.hot_ms).map(|(value, floor)| value - floor).collect()
        };
        let theirs = above(&seen(rival, 8, |window| window.cpu_ms));
        let what = format!(
            "server CPU above the floor, concurrency 8, {name}, over that of {} (floor in CPU-ms)",
            lanes[rival].name
        );
        rows.push(Row::at_most(what, ratio(&above(&ours), &theirs), "×", 0.3).beside(median(theirs)));

        let at_one = seen(index, 1, |window| window.cpu_ms);
        let paced = floors.paced_ms.get(&index).cloned().unwrap_or_default();
        let what =
            format!("CPU per request, concurrency 1, {name}, over the floor at its pace (floor in CPU-ms)");
        rows.push(Row::at_most(what, ratio(&at_one, &paced), "×", cpu_limit).beside(median(paced)));
        let what = format!("CPU per request, concurrency 8, {name}, over the floor (floor in CPU-ms)");
        rows.push(
            Row::at_most(what, ratio(&ours, &floors.hot_ms), "×", cpu_limit)
                .beside(median(floors.hot_ms.clone())),
        );
    }
    rows
}

/// The medians of every server, for whoever wants to compare something else.
fn table(lanes: &[Lane], windows: &Windows, floors: &Floors, missing: &[String]) -> String {
    let mut text = "\n## Every server\n\nMedians of the rounds; conv net, input [1, 3, 48, 192] float32 (108 KiB), output [1, 16]. CPU is the server's, with its \
                    child processes.\n\n| server | concurrency | requests/s | p50 ms | p99 ms | CPU-ms/request | resident MiB |\n|---|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    let mut line = |name: &str, concurrency: usize, cells: [f64; 5]| {
        let cells: Vec<String> = cells
            .into_iter()
            .map(|value| if value.is_nan() { String::new() } else { number(value) })
            .collect();
        // Into a String: it cannot fail.
        writeln!(text, "| {name} | {concurrency} | {} |", cells.join(" | ")).ok();
    };
    for concurrency in CONCURRENCIES {
        for (index, lane) in lanes.iter().enumerate() {
            let of = |value: fn(&Window) -> f64| {
                median(windows.get(&(index, concurrency)).into_iter().flatten().map(value).collect())
            };
            let cells = [
                of(|window| window.per_second),
                of(|window| window.p50_ms),
                of(|window| window.p99_ms),
                of(|window| window.cpu_ms),
                of(|window| window.resident_mib),
            ];
            line(&lane.name, concurrency, cells);
        }
        let nothing = f64::NAN;
        match concurrency {
            1 => {
                for (index, floor) in &floors.paced_ms {
                    let name = format!("ONNX Runtime alone, at the pace of {}", lanes[*index].name);
                    line(&name, 1, [nothing, nothing, nothing, median(floor.clone()), nothing]);
                }
            }
            8 => line(
                "ONNX Runtime alone, without a pause",
                8,
                [nothing, nothing, nothing, median(floors.hot_ms.clone()), nothing],
            ),
            _ => {}
        }
    }
    for one in missing {
        writeln!(text, "\nNot in the table: {one}").ok();
    }
    text
}
