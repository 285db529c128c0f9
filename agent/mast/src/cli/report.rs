//! What `mast infer` shows of one inference: a table for a person, one JSON object for a program.

use std::fmt::Write as _;
use std::time::Duration;

use media::{Detection, Label};
use serde::Serialize;
use serde_json::Value;

use super::findings::Findings;
use super::reply::Reply;
use super::table;

/// Elements shown of an output that no configuration explains.
const FIRST: usize = 8;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    model: String,
    version: String,
    provider: String,
    device: String,
    timings_us: Timings,
    /// Rows of the batch that this request was part of.
    batch_rows: u64,
    /// From the first byte sent to the last received, connection included.
    round_trip_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<Label>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<Vec<Detection>>,
    /// Of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Vec<f32>>,
    outputs: Vec<Output>,
}

#[derive(Debug, Serialize)]
struct Timings {
    queue: u64,
    batch: u64,
    compute: u64,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    first: Vec<Value>,
}

impl Report {
    pub(super) fn new(reply: &Reply, findings: Findings, round_trip: Duration) -> Self {
        let Findings { classes, objects, vector } = findings;
        let outputs = reply.outputs.iter().map(|output| Output {
            name: output.name.clone(),
            datatype: output.datatype.clone(),
            shape: output.shape.clone(),
            first: output.values(FIRST),
        });
        Self {
            model: reply.model.clone(),
            version: reply.version.clone(),
            provider: reply.ran.provider.clone(),
            device: reply.ran.device.clone(),
            timings_us: Timings {
                queue: reply.ran.queue_us,
                batch: reply.ran.batch_us,
                compute: reply.ran.compute_us,
            },
            batch_rows: reply.ran.batch_rows,
            round_trip_us: u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX),
            classes,
            objects,
            vector,
            outputs: outputs.collect(),
        }
    }

    /// One line.
    pub(super) fn to_json(&self) -> String {
        // Maps with string keys and plain values: this has no failing case.
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn to_table(&self) -> String {
        let Timings { queue, batch, compute } = self.timings_us;
        let timings = format!(
            "queue {}, batch {} ({} rows), compute {}; round trip {}",
            table::micros(queue),
            table::micros(batch),
            self.batch_rows,
            table::micros(compute),
            table::micros(self.round_trip_us)
        );
        let mut rows = vec![
            table::row(["model", &format!("{} version {}", self.model, self.version)]),
            table::row(["ran on", &format!("{}, {}", self.provider, self.device)]),
            table::row(["latency", &timings]),
        ];
        let mut text = table::text(&rows);
        rows.clear();
        for class in self.classes.iter().flatten() {
            rows.push(table::row([&format!("{:.3}", class.score), &class.label]));
        }
        for object in self.objects.iter().flatten() {
            let [x0, y0, x1, y1] = object.corners.map(|corner| format!("{corner:.0}"));
            let place = format!("{x0},{y0} to {x1},{y1}");
            rows.push(table::row([&format!("{:.3}", object.score), &object.label, &place]));
        }
        if self.objects.as_ref().is_some_and(Vec::is_empty) {
            rows.push(table::row(["no object reaches the score threshold"]));
        }
        if let Some(vector) = &self.vector {
            let first: Vec<String> = vector.iter().take(FIRST).map(|value| format!("{value:.4}")).collect();
            rows.push(table::row([
                "vector",
                &format!("of {}", vector.len()),
                &format!("{}, ...", first.join(", ")),
            ]));
        }
        if self.classes.is_none() && self.objects.is_none() && self.vector.is_none() {
            rows.extend(self.outputs.iter().map(raw));
        }
        // Writing into a String cannot fail.
        write!(text, "\n{}", table::text(&rows)).ok();
        text
    }
}

fn raw(output: &Output) -> Vec<String> {
    let shape: Vec<String> = output.shape.iter().map(usize::to_string).collect();
    let first: Vec<String> = output.first.iter().map(Value::to_string).collect();
    let all = output.shape.iter().product::<usize>() <= output.first.len();
    let values = format!("{}{}", first.join(", "), if all { "" } else { ", ..." });
    table::row([&output.name, &format!("{} [{}]", output.datatype, shape.join(", ")), &values])
}
