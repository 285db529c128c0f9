//! What dynamic batching brings: a sentence encoder, whose products of matrices grow with the batch, against the conv net, which is as
//! busy with one image as with many. The same model at concurrency 32 with and without, each with one and with two instances; the
//! windows are interleaved, and the best of each counts.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::http::{self, Request};
use harness::infer::{binary_parts, f32_bytes};
use harness::load::{self, Until};
use harness::{Setup, files, workspace};
use serde_json::{Value, json};

use super::{Findings, Scale};
use crate::bench::{Programs, Row, median, number};

const CONCURRENCY: usize = 32;
const TOKENS: i64 = 16;
const LIMIT: f64 = 1.3;
const ENCODER: &str = "minilm-l6-v2-int8";

/// One way to serve the model.
struct Variant {
    name: &'static str,
    batches: bool,
    toml: &'static str,
}

const VARIANTS: [Variant; 4] = [
    Variant { name: "one-alone", batches: false, toml: "max_batch_size = 1\n" },
    Variant { name: "two-alone", batches: false, toml: "max_batch_size = 1\ninstances = 2\n" },
    Variant { name: "one-batching", batches: true, toml: "max_batch_size = 32\n" },
    Variant { name: "two-batching", batches: true, toml: "max_batch_size = 32\ninstances = 2\n" },
];

pub(super) fn measure(programs: &Programs, scale: Scale) -> Result<Findings> {
    let mut text = format!(
        "\n## Batching\n\nRequests/s at concurrency {CONCURRENCY}, each request one row, batches of at most 32, one thread.\n\n\
         | model | {} | gain |\n|---|{}---:|\n",
        VARIANTS.map(|variant| variant.name.replace('-', " ")).join(" | "),
        "---:|".repeat(VARIANTS.len())
    );
    let encoder = workspace::models().join(ENCODER).join("1/model.onnx");
    ensure!(encoder.exists(), "no {ENCODER}: `cargo xtask setup` makes it");
    let (gain, alone) =
        compare(programs, scale, &encoder, &format!("{ENCODER}, {TOKENS} tokens"), &mut text)?;
    compare(programs, scale, &programs.conv_net, "conv net, [3, 48, 192]", &mut text)?;
    let what = format!(
        "{ENCODER}, {TOKENS} tokens, concurrency {CONCURRENCY}: batching over the best without (floor in requests/s)"
    );
    Ok(Findings { rows: vec![Row::at_least(what, gain, "×", LIMIT).beside(alone)], text })
}

/// The gain of the best batching variant over the best without, and the requests/s of that.
fn compare(
    programs: &Programs,
    scale: Scale,
    model: &Path,
    name: &str,
    text: &mut String,
) -> Result<(f64, f64)> {
    let bytes = std::fs::read(model).with_context(|| format!("cannot read {}", model.display()))?;
    let setup = Setup::new()?.program_at(&programs.mast);
    for variant in &VARIANTS {
        let toml = format!(
            "providers = [\"cpu\"]\nthreads = 1\nspinning = false\nqueue_limit = 256\n{}",
            variant.toml
        );
        files::add_model(setup.repository(), variant.name, 1, &bytes, &toml)?;
    }
    let agent = setup.start()?;
    let mut seen: [Vec<f64>; VARIANTS.len()] = Default::default();
    for round in 0..=scale.windows.pairs {
        for (variant, seen) in VARIANTS.iter().zip(&mut seen) {
            let metadata = http::get(agent.http, &format!("/v2/models/{}", variant.name))?.json()?;
            let request = request(variant.name, &metadata)?;
            let window = Until::After(Duration::from_secs_f64(scale.windows.seconds));
            let outcome = load::run(agent.http, &request, CONCURRENCY, window)?;
            ensure!(outcome.refused == 0, "refused under a load of {CONCURRENCY}");
            // The first round warms all up.
            if round > 0 {
                println!("  {name}, round {round}, {}: {:.0} requests/s", variant.name, outcome.throughput());
                seen.push(outcome.throughput());
            }
        }
    }
    let best = |batches: bool| {
        let of = VARIANTS.iter().zip(&seen).filter(|(variant, _)| variant.batches == batches);
        of.map(|(_, seen)| seen).max_by(|a, b| median((*a).clone()).total_cmp(&median((*b).clone())))
    };
    let (with, without) = best(true).zip(best(false)).context("no variant")?;
    let gain = median(with.iter().zip(without).map(|(a, b)| a / b).collect());
    let cells: Vec<String> = seen.iter().map(|seen| number(median(seen.clone()))).collect();
    writeln!(text, "| {name} | {} | {} × |", cells.join(" | "), number(gain))?;
    Ok((gain, median(without.clone())))
}

/// One row for the inputs that the metadata lists: token ids with everything attended to, or an image of one grey.
fn request(model: &str, metadata: &Value) -> Result<Request> {
    let (mut inputs, mut tail) = (Vec::new(), Vec::new());
    for input in metadata["inputs"].as_array().with_context(|| format!("no inputs in {metadata}"))? {
        let name = input["name"].as_str().context("an input without a name")?;
        let datatype = input["datatype"].as_str().context("an input without a datatype")?;
        let shape: Vec<i64> = input["shape"]
            .as_array()
            .context("an input without a shape")?
            .iter()
            .enumerate()
            .map(|(axis, size)| match size.as_i64() {
                Some(size) if size > 0 => size,
                _ if axis == 0 => 1,
                _ => TOKENS,
            })
            .collect();
        let elements = shape.iter().product::<i64>();
        let bytes: Vec<u8> = match datatype {
            "INT64" => (0..elements).flat_map(|index| token(name, index).to_le_bytes()).collect(),
            "FP32" => f32_bytes(&vec![0.5; usize::try_from(elements)?]),
            other => anyhow::bail!("no values for {other}"),
        };
        inputs.push(json!({
            "name": name, "datatype": datatype, "shape": shape, "parameters": { "binary_data_size": bytes.len() },
        }));
        tail.extend(bytes);
    }
    let head = json!({ "inputs": inputs, "parameters": { "binary_data_output": true } });
    Ok(binary_parts(model, &head, &tail))
}

fn token(input: &str, index: i64) -> i64 {
    match input {
        name if name.contains("mask") => 1,
        name if name.contains("type") => 0,
        _ => 1000 + index * 37,
    }
}
