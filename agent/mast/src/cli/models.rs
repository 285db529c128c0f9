//! `mast models`: every model of the repository, and what really runs it.

use super::catalog::{Building, Catalog, Model, PATH, Row, TIMEOUT};
use super::{ConnectArgs, table};
use crate::exit::Exit;

pub(crate) fn run(args: &ConnectArgs) -> Exit {
    super::ask(args, PATH, TIMEOUT, show)
}

fn show(catalog: &Catalog) -> String {
    if catalog.index.is_empty() {
        return "the model repository is empty\n".to_owned();
    }
    let mut rows = vec![table::row(["MODEL", "VERSION", "STATE", "PROVIDER", "DEVICE", "NODES", "MEMORY"])];
    let mut notes = Vec::new();
    for entry in &catalog.index {
        let same = |model: &&Model| model.name == entry.name && model.version.to_string() == entry.version;
        let loaded = catalog.models.iter().find(same);
        rows.push(row(entry, loaded));
        notes.extend(note(entry, loaded));
    }
    let mut text = table::text(&rows);
    if !notes.is_empty() {
        text.push('\n');
        text.push_str(&notes.join(""));
    }
    text
}

fn row(entry: &Row, loaded: Option<&Model>) -> Vec<String> {
    let state = match loaded.and_then(|model| model.building.as_ref()) {
        Some(_) => "BUILDING",
        None => &entry.state,
    };
    let version = if entry.version.is_empty() { "-" } else { &entry.version };
    let Some(model) = loaded else { return table::row([&entry.name, version, state, "-", "-", "-", "-"]) };
    let placement = &model.placement;
    let device = if placement.device.name.is_empty() {
        placement.device.id.clone()
    } else {
        format!("{} ({})", placement.device.id, placement.device.name)
    };
    let nodes = placement.assignments.iter().map(|part| format!("{} {}", part.provider, part.nodes));
    let nodes = nodes.collect::<Vec<_>>().join(", ");
    let memory = match model.memory.device_bytes {
        0 => table::bytes(model.memory.host_bytes),
        device => {
            format!("{} + {} on the device", table::bytes(model.memory.host_bytes), table::bytes(device))
        }
    };
    table::row([&entry.name, version, state, &placement.provider, &device, &nodes, &memory])
}

/// What needs a sentence: a reason, a provider that was tried in vain, a build that goes on.
fn note(entry: &Row, loaded: Option<&Model>) -> Vec<String> {
    let mut notes = Vec::new();
    if !entry.reason.is_empty() {
        notes.push(format!("{}: {}\n", entry.name, entry.reason));
    }
    let Some(model) = loaded else { return notes };
    notes.extend(model.warnings.iter().map(|warning| format!("{}: {warning}\n", model.name)));
    for attempt in &model.placement.attempts {
        if let Some(failure) = &attempt.failure {
            notes.push(format!("{}: {} was tried and not used: {failure}\n", model.name, attempt.provider));
        }
    }
    if let Some(Building { provider, elapsed_ms, done, total }) = &model.building {
        let total = total.map_or_else(String::new, |total| format!(" of {total}"));
        let elapsed = table::seconds(elapsed_ms / 1_000);
        notes.push(format!(
            "{}: an engine for {provider} is being built, {done}{total} parts after {elapsed}\n",
            model.name
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_model_has_a_row_and_trouble_has_a_note() {
        let catalog: Catalog = serde_json::from_value(json!({
            "models": [{
                "name": "a", "version": 2, "versions": [2], "state": "BUILDING", "dir": "/m/a", "config": {},
                "inputs": [], "outputs": [],
                "building": { "provider": "tensorrt", "elapsed_ms": 65_000, "done": 1, "total": 4 },
                "placement": {
                    "provider": "cuda", "device": { "id": "gpu:0", "name": "NVIDIA L4" },
                    "attempts": [{ "provider": "cuda", "failure": null }],
                    "assignments": [
                        { "provider": "cuda", "nodes": 70, "operators": [["Conv", 70]] },
                        { "provider": "cpu", "nodes": 2, "operators": [] },
                    ],
                },
            }, {
                "name": "b", "version": 1, "state": "READY", "dir": "/m/b", "config": {}, "building": null, "warnings": ["gpus is ignored"],
                "memory": { "host_bytes": 1536, "device_bytes": 0 },
                "placement": {
                    "provider": "cpu", "device": { "id": "cpu", "name": "" },
                    "attempts": [{ "provider": "cuda", "failure": "no driver" }, { "provider": "cpu", "failure": null }],
                    "assignments": [],
                },
            }],
            "index": [
                { "name": "a", "version": "2", "state": "READY", "reason": "" },
                { "name": "b", "version": "1", "state": "READY", "reason": "" },
                { "name": "c", "version": "", "state": "UNAVAILABLE", "reason": "no version" },
            ],
        }))
        .unwrap();
        let expected = "\
MODEL  VERSION  STATE        PROVIDER  DEVICE             NODES           MEMORY
a      2        BUILDING     cuda      gpu:0 (NVIDIA L4)  cuda 70, cpu 2  0 B
b      1        READY        cpu       cpu                                1.5 KiB
c      -        UNAVAILABLE  -         -                  -               -

a: an engine for tensorrt is being built, 1 of 4 parts after 65 s
b: gpus is ignored
b: cuda was tried and not used: no driver
c: no version
";
        assert_eq!(show(&catalog), expected);
        assert_eq!(show(&Catalog { models: vec![], index: vec![] }), "the model repository is empty\n");
    }
}
