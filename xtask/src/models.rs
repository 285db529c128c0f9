//! `cargo xtask models`: build and check the models of `models/catalog.toml`.

pub(crate) mod build;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::cache;
use crate::catalog::{Catalog, Model, Use};
use crate::python::{self, finish};
use crate::setup::{self, Ready};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List models, licences and sizes
    List,
    /// Build one model, or all, again
    Build { id: Option<String> },
    /// Read every built file and photo and compare its sha256 with the catalogue
    Verify,
    /// Recompute the activation ranges of the int8 models and compare them with the committed ones
    Calibrate {
        /// Replace the committed ranges
        #[arg(long)]
        write: bool,
    },
    /// Recompute the golden cases with ONNX Runtime's CPU provider and compare
    Golden {
        /// Fill in or replace the expected values
        #[arg(long)]
        write: bool,
        /// With graph optimisation off: how far do other kernels move the outputs?
        #[arg(long, conflicts_with = "write")]
        spread: bool,
    },
    /// Unit tests of the recipes
    Test,
    /// How often does an int8 model name the same class as its float32 source, on the test photos?
    Agreement,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let catalog = Catalog::load()?;
    match &args.command {
        Command::List => list(&catalog),
        Command::Build { id } => rebuild(&catalog, id.as_deref()),
        Command::Verify => verify(&catalog, &setup::ensure()?),
        Command::Calibrate { write } => calibrate(&catalog, &setup::ensure()?, *write),
        Command::Golden { write, spread } => golden(&catalog, &setup::ensure()?, *write, *spread),
        Command::Test => test_recipes(&setup::ensure()?),
        Command::Agreement => agreement(&catalog, &setup::ensure()?),
    }
}

/// What `cargo xtask test` runs of this: digests, golden cases, unit tests of the recipes.
pub(crate) fn check(ready: &Ready) -> Result<()> {
    let catalog = Catalog::load()?;
    verify(&catalog, ready)?;
    golden(&catalog, ready, false, false)?;
    test_recipes(ready)
}

fn test_recipes(ready: &Ready) -> Result<()> {
    finish(python::recipe(&ready.python, "tests.py"), &mut |line| println!("{line}"))?;
    println!("unit tests of the recipes passed");
    Ok(())
}

fn list(catalog: &Catalog) -> Result<()> {
    for model in &catalog.models {
        println!("{} version {}: {}", model.id, model.version, model.summary);
        println!("  licence  {} ({})", model.licence, model.licence_stated);
        println!("  memory   about {} MiB", model.memory_mib);
        for (direction, tensors) in [("in ", &model.inputs), ("out", &model.outputs)] {
            for t in tensors {
                println!("  {direction}      {} {} {:?}", t.name, t.datatype, t.shape);
            }
        }
        for package in model.packages(catalog)? {
            let (name, version) = (&package.name, &package.version);
            println!("  from     {name} {version}: {} ({})", package.licence, package.licence_stated);
        }
        for file in &model.files {
            println!("  {:14} {:>10} bytes  sha256 {}", file.path, file.bytes, file.sha256);
        }
    }
    Ok(())
}

fn rebuild(catalog: &Catalog, id: Option<&str>) -> Result<()> {
    let cache = cache::dir()?;
    let _lock = cache::lock(&cache)?;
    let python = python::ensure(&cache)?;
    let wanted = id.map(|id| catalog.model(id)).transpose()?;
    for model in &catalog.models {
        if wanted.is_none_or(|w| w.id == model.id) {
            build::build(&cache, &python, catalog, model)?;
        } else if wanted.is_some_and(|w| is_made_from(w, model)) {
            build::ensure(&cache, &python, catalog, model)?;
        }
    }
    Ok(())
}

fn is_made_from(model: &Model, other: &Model) -> bool {
    model.files.iter().flat_map(|f| &f.sources).any(|s| s.model.as_ref() == Some(&other.id))
}

fn verify(catalog: &Catalog, ready: &Ready) -> Result<()> {
    let (mut good, mut bad) = (0, 0);
    let mut check = |path: &Path, expected: &str| match cache::expect_sha256(path, expected) {
        Ok(()) => good += 1,
        Err(wrong) => {
            bad += 1;
            println!("FAILED  {wrong:#}");
        }
    };
    for model in &catalog.models {
        if !is_built(ready, model) {
            println!("skipped {}: not built, see cargo xtask setup", model.id);
            continue;
        }
        let dir = ready.model_repository.join(&model.id);
        for file in &model.files {
            check(&dir.join(&file.path), &file.sha256);
        }
        check(&dir.join("model.toml"), &cache::sha256_file(&build::template(model))?);
    }
    for photo in catalog.photos(Use::Test) {
        check(&ready.photos.join(photo.name()), &photo.sha256);
    }
    println!("{good} files are as the catalogue states, {bad} are not");
    if bad > 0 {
        bail!(
            "the cache is damaged; run: cargo xtask models build (for photos: remove {})",
            ready.cache.display()
        );
    }
    Ok(())
}

fn is_built(ready: &Ready, model: &Model) -> bool {
    ready.model_repository.join(&model.id).is_dir()
}

fn calibrate(catalog: &Catalog, ready: &Ready, write: bool) -> Result<()> {
    let dir = setup::place_photos(&ready.cache, &ready.python, catalog, Use::Calibration)?;
    for file in catalog.models.iter().flat_map(|m| &m.files) {
        let Some(ranges) = &file.ranges else { continue };
        let source = file.sources.first().context("a model with ranges needs a source")?;
        let model = source.model.as_ref().context("ranges belong to a model made from another model")?;
        let committed = cache::root().join("models/recipes").join(ranges);
        let out = if write { committed.clone() } else { ready.cache.join(ranges) };
        let mut command = python::recipe(&ready.python, "calibrate.py");
        command.arg("--out").arg(&out).arg("--model");
        command.arg(ready.model_repository.join(model).join(&source.path));
        command.args(catalog.photos(Use::Calibration).map(|p| dir.join(p.name())));
        finish(command, &mut |_| {})?;
        if write {
            println!(
                "wrote {}; now: cargo xtask models build, and put the sha256 into the catalogue",
                out.display()
            );
        } else {
            compare_ranges(ranges, &read_ranges(&committed)?, &read_ranges(&out)?)?;
        }
    }
    Ok(())
}

type Ranges = std::collections::BTreeMap<String, [f64; 2]>;

fn read_ranges(path: &Path) -> Result<Ranges> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut value: serde_json::Value = serde_json::from_str(&text)?;
    Ok(serde_json::from_value(value["tensors"].take())?)
}

/// Ranges are rounded to 4 digits, so another CPU may land on the neighbouring value, not further away.
const RANGE_TOLERANCE: f64 = 0.002;

fn compare_ranges(name: &str, committed: &Ranges, found: &Ranges) -> Result<()> {
    if !committed.keys().eq(found.keys()) {
        bail!("{name} does not name the tensors of the model; run: cargo xtask models calibrate --write");
    }
    let mut largest = 0.0_f64;
    for (tensor, [low, high]) in committed {
        let [new_low, new_high] = found[tensor];
        let width = (high - low).abs().max(f64::MIN_POSITIVE);
        largest = largest.max((low - new_low).abs() / width).max((high - new_high).abs() / width);
    }
    if largest > RANGE_TOLERANCE {
        bail!("{name}: a range moved by {:.3} % of its width; photos or model changed", largest * 100.0);
    }
    println!(
        "{name}: {} ranges, the largest moved by {:.4} % of its width",
        committed.len(),
        largest * 100.0
    );
    Ok(())
}

fn golden(catalog: &Catalog, ready: &Ready, write: bool, spread: bool) -> Result<()> {
    let mut command = python::recipe(&ready.python, "golden.py");
    command.arg("--repository").arg(&ready.model_repository).arg("--photos").arg(&ready.photos);
    command.args(write.then_some("--write")).args(spread.then_some("--spread"));
    let mut count = 0;
    for model in &catalog.models {
        let cases = golden_cases(&model.id)?;
        if is_built(ready, model) {
            count += cases.len();
            command.args(cases);
        } else {
            println!("skipped {}: not built, see cargo xtask setup", model.id);
        }
    }
    let mut differ = false;
    let finished = finish(command, &mut |line| {
        differ |= line.starts_with("FAILED");
        println!("{line}");
    });
    if differ {
        bail!("golden cases differ, see above");
    }
    finished?;
    println!("{count} golden cases");
    Ok(())
}

/// `models/golden/<model>/*.json`, sorted.
fn golden_cases(model: &str) -> Result<Vec<PathBuf>> {
    let dir = cache::root().join("models/golden").join(model);
    let entries = std::fs::read_dir(&dir).with_context(|| format!("{model} has no golden cases"))?;
    let mut cases = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    cases.retain(|p| p.extension().is_some_and(|e| e == "json"));
    cases.sort();
    Ok(cases)
}

fn agreement(catalog: &Catalog, ready: &Ready) -> Result<()> {
    for model in &catalog.models {
        let Some(file) = model.files.iter().find(|f| f.ranges.is_some()) else { continue };
        let source = file.sources.first().and_then(|s| s.model.as_ref()).context("no float32 model")?;
        let mut command = python::recipe(&ready.python, "agreement.py");
        for id in [source, &model.id] {
            command.arg(ready.model_repository.join(id).join(&file.path));
        }
        command.args(catalog.photos(Use::Test).map(|p| ready.photos.join(p.name())));
        println!("{} against {source}:", model.id);
        finish(command, &mut |line| println!("  {line}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_may_move_by_a_rounding_but_not_with_another_photo() {
        let ranges = |high: f64| Ranges::from([("conv".to_owned(), [-1.0, high])]);
        compare_ranges("r", &ranges(9.0), &ranges(9.01)).unwrap();
        assert!(compare_ranges("r", &ranges(9.0), &ranges(9.5)).is_err());
        assert!(compare_ranges("r", &ranges(9.0), &Ranges::new()).is_err());
    }

    #[test]
    fn every_model_has_golden_cases_and_photos_are_those_for_tests() {
        let catalog = Catalog::load().unwrap();
        for model in &catalog.models {
            let cases = golden_cases(&model.id).unwrap();
            assert!(cases.len() >= 2, "{}", model.id);
            for case in cases {
                let case: serde_json::Value =
                    serde_json::from_str(&std::fs::read_to_string(case).unwrap()).unwrap();
                let photo =
                    catalog.photos(Use::Test).find(|p| Some(p.name()) == case["photo"]["name"].as_str());
                assert_eq!(case["photo"]["sha256"].as_str(), photo.map(|p| p.sha256.as_str()));
                assert_eq!(case["outputs"].as_array().unwrap().len(), model.outputs.len());
                assert_eq!(case["version"].as_str(), Some(model.version.as_str()));
            }
        }
    }
}
