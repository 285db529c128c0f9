use std::path::Path;

use anyhow::{Context, Result, bail};
use harness::Agent;
use serde::Serialize;
use serde_json::Value;

use crate::setup::Ready;

/// Which photo goes to which model.
const SHOWN: [(&str, &str); 5] = [
    ("efficientnet-lite0", "coffee.png"),
    ("efficientnet-lite0", "rocket.jpg"),
    ("efficientnet-lite0-int8", "coffee.png"),
    ("nanodet-coco", "motorcycle_left.png"),
    ("nanodet-coco", "astronaut.png"),
];
const NAMES_SHOWN: usize = 3;

/// One photo and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Seen {
    pub(super) model: String,
    pub(super) photo: String,
    pub(super) provider: String,
    pub(super) device: String,
    pub(super) queue_us: u64,
    pub(super) batch_us: u64,
    pub(super) compute_us: u64,
    pub(super) round_trip_us: u64,
    /// Label and score, best first.
    pub(super) found: Vec<(String, f64)>,
}

/// Each photo by `mast infer`, a process of its own, over the public HTTP API.
pub(super) fn show_all(agent: &Agent, ready: &Ready, labels: &[&str]) -> Result<Vec<Seen>> {
    let shown = SHOWN.into_iter().filter(|(model, _)| ready.nanodet || *model != "nanodet-coco");
    shown.map(|(model, photo)| show(agent, &ready.photos.join(photo), model, labels)).collect()
}

fn show(agent: &Agent, photo: &Path, model: &str, labels: &[&str]) -> Result<Seen> {
    let value = infer(agent, photo, model, labels)?;
    if value["error"].is_string() {
        bail!("{model} on {}: {value}", photo.display());
    }
    let text =
        |key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {value}"));
    let time = |key: &str| value["timings_us"][key].as_u64().with_context(|| format!("no {key} in {value}"));
    let names =
        value["classes"].as_array().or(value["objects"].as_array()).context("neither classes nor objects")?;
    let named = |one: &Value| Some((one["label"].as_str()?.to_owned(), one["score"].as_f64()?));
    Ok(Seen {
        model: text("model")?,
        photo: photo.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        provider: text("provider")?,
        device: device_name(agent, model)?,
        queue_us: time("queue")?,
        batch_us: time("batch")?,
        compute_us: time("compute")?,
        round_trip_us: value["round_trip_us"]
            .as_u64()
            .with_context(|| format!("no round_trip_us in {value}"))?,
        found: names.iter().filter_map(named).take(NAMES_SHOWN).collect(),
    })
}

/// The vendor's name of the device that runs the model; the reply has only its short id.
fn device_name(agent: &Agent, model: &str) -> Result<String> {
    let status = agent.status()?;
    let models = status["models"].as_array().context("no models in the status")?;
    let device = models.iter().find(|one| one["name"] == model).and_then(|one| one["device"].as_str());
    Ok(device.with_context(|| format!("no device of {model} in {status}"))?.to_owned())
}

/// What `mast infer --json` prints, whether it is a reply or a refusal.
pub(super) fn infer(agent: &Agent, photo: &Path, model: &str, labels: &[&str]) -> Result<Value> {
    let (address, photo) = (agent.http.to_string(), photo.to_string_lossy().into_owned());
    let args = [&["infer", model, &photo, "--http", &address, "--json"], labels].concat();
    let output = agent.mast(&args)?;
    serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "mast infer printed {:?} {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}
