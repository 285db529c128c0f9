//! The real models of the catalogue: their golden cases over the public API, and real photos through `mast infer`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Agent, Setup, files, infer, workspace};
use serde_json::Value;

fn cases() -> Result<Vec<(PathBuf, Value)>> {
    let mut cases = Vec::new();
    for path in files::walk(&workspace::root().join("models/golden"))? {
        if path.extension().is_some_and(|end| end == "json") {
            let case: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            // Sentences are media's to test, and sounds need sequences.
            if case["photo"].is_null() {
                continue;
            }
            // The detector comes from npm; without npm setup said so and left it out.
            let model = case["model"].as_str().context("a case without a model")?;
            if workspace::models().join(model).is_dir() {
                cases.push((path, case));
            } else {
                ensure!(model == "nanodet-coco", "{model} was not built: run `cargo xtask setup`");
            }
        }
    }
    ensure!(cases.len() >= 2, "no golden cases");
    Ok(cases)
}

fn agent() -> Result<Agent> {
    Setup::new()?.repository_at(workspace::models()).start()
}

/// The input as the case states it, computed by the recipe's own code, which checks its digest.
fn input(case: &PathBuf) -> Result<Vec<u8>> {
    let output = Command::new(workspace::python()?)
        .arg("-B")
        .arg(workspace::root().join("tests/cases/golden_input.py"))
        .args([case, &workspace::photos()])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

#[test]
fn golden_cases_hold_over_http() -> Result<()> {
    let agent = agent()?;
    for (path, case) in cases()? {
        let name = path.display();
        let text =
            |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{name}: not a text"));
        let model = text(&case["model"])?;
        let shape = case["input"]["shape"].as_array().context("no shape")?;
        let shape: Vec<u64> = shape.iter().filter_map(Value::as_u64).collect();
        let request = infer::binary(&model, &text(&case["input"]["name"])?, &shape, &input(&path)?);
        let response = agent.send_ok(&request)?;
        let (head, tail) = infer::split(&response)?;
        let tolerance = case["tolerance"]["absolute"].as_f64().context("no tolerance")?;
        let mut offset = 0;
        let mut got = std::collections::BTreeMap::new();
        for output in head["outputs"].as_array().context("no outputs")? {
            let size = output["parameters"]["binary_data_size"].as_u64().context("no size")?;
            let end = offset + usize::try_from(size)?;
            got.insert(text(&output["name"])?, infer::f32_values(&tail[offset..end]));
            offset = end;
        }
        let mut compared = 0;
        for output in case["outputs"].as_array().context("no outputs")? {
            let values =
                got.get(&text(&output["name"])?).with_context(|| format!("{name}: {output} is missing"))?;
            for sample in output["samples"].as_array().context("no samples")? {
                let at = usize::try_from(sample[0].as_u64().context("no index")?)?;
                let expected = sample[1].as_f64().context("no value")?;
                let found = f64::from(*values.get(at).context("an index outside the output")?);
                ensure!(
                    (found - expected).abs() <= tolerance,
                    "{name}: [{at}] is {found}, expected {expected} ± {tolerance}"
                );
                compared += 1;
            }
        }
        ensure!(compared >= 5, "{name}: only {compared} values were compared");
    }
    Ok(())
}

#[test]
fn photos_through_the_command_line() -> Result<()> {
    let agent = agent()?;
    let check = |model: &str, photo: &str, expected: &str| -> Result<()> {
        let photo = workspace::photos().join(photo);
        let address = agent.http.to_string();
        let photo = photo.to_string_lossy();
        let output = agent.mast(&["infer", model, &photo, "--http", &address, "--json"])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{model} {photo}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let value: Value =
            serde_json::from_slice(&output.stdout).with_context(|| said.clone().into_owned())?;
        ensure!(
            value["model"] == model && value["provider"] == "cpu" && value["device"].is_string(),
            "{value}"
        );
        let best = if value["classes"].is_array() {
            &value["classes"][0]["label"]
        } else {
            &value["objects"][0]["label"]
        };
        ensure!(best == expected, "{model} sees {best} on {photo}, expected {expected}");
        Ok(())
    };
    for model in ["efficientnet-lite0", "efficientnet-lite0-int8"] {
        check(model, "coffee.png", "espresso")?;
    }
    if workspace::models().join("nanodet-coco").is_dir() {
        check("nanodet-coco", "motorcycle_left.png", "motorcycle")?;
        check("nanodet-coco", "astronaut.png", "person")?;
    }
    Ok(())
}
