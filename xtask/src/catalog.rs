//! `models/catalog.toml` and `models/runtime.toml` as types. models/README.md explains every key.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::cache;

const FORMAT: u32 = 1;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catalog {
    format: u32,
    #[serde(rename = "package")]
    pub(crate) packages: Vec<Package>,
    #[serde(rename = "model")]
    pub(crate) models: Vec<Model>,
    #[serde(rename = "photo")]
    pub(crate) photos: Vec<Photo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Registry {
    Pypi,
    Npm,
}

/// An archive of a registry, by exact name, version and digest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) registry: Registry,
    pub(crate) name: String,
    pub(crate) version: String,
    /// File name of the archive as the registry serves it.
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) licence: String,
    /// Where the licence is written.
    pub(crate) licence_stated: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) summary: String,
    pub(crate) licence: String,
    pub(crate) licence_stated: String,
    pub(crate) memory_mib: u32,
    pub(crate) inputs: Vec<TensorInfo>,
    pub(crate) outputs: Vec<TensorInfo>,
    #[serde(rename = "file")]
    pub(crate) files: Vec<ModelFile>,
}

/// A tensor as the model states it; -1 is a free dimension.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    pub(crate) datatype: String,
    pub(crate) shape: Vec<i64>,
}

/// A file of the model repository: made by `recipe` from `sources`, or `committed` under models/.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelFile {
    pub(crate) path: String,
    pub(crate) recipe: Option<String>,
    pub(crate) ranges: Option<String>,
    #[serde(default)]
    pub(crate) sources: Vec<Source>,
    pub(crate) committed: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// What a recipe reads: a file of a package, or of another model of the repository.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) package: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) path: String,
    pub(crate) sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Use {
    Test,
    Calibration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Photo {
    #[serde(rename = "use")]
    pub(crate) purpose: Use,
    pub(crate) package: String,
    pub(crate) path: String,
    pub(crate) sha256: String,
}

impl Photo {
    /// The file name, which is also its name in golden cases.
    pub(crate) fn name(&self) -> &str {
        base_name(&self.path)
    }
}

/// The last component of a path inside an archive.
pub(crate) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Catalog {
    pub(crate) fn load() -> Result<Self> {
        let text = std::fs::read_to_string(cache::root().join("models/catalog.toml"));
        Self::parse(&text.context("cannot read models/catalog.toml")?).context("models/catalog.toml")
    }

    fn parse(text: &str) -> Result<Self> {
        let catalog: Self = toml::from_str(text)?;
        ensure!(catalog.format == FORMAT, "format {} is unknown, this xtask reads {FORMAT}", catalog.format);
        catalog.check()?;
        Ok(catalog)
    }

    /// Every reference resolves, models come after what they are made of, and no photo serves two purposes.
    fn check(&self) -> Result<()> {
        let mut made = HashSet::new();
        for model in &self.models {
            for file in &model.files {
                ensure!(
                    file.recipe.is_some() != file.committed.is_some(),
                    "{}/{} needs either a recipe or a committed file",
                    model.id,
                    file.path
                );
                for source in &file.sources {
                    match (&source.package, &source.model) {
                        (Some(id), None) => drop(self.package(id)?),
                        (None, Some(id)) if made.contains(id) => {}
                        (None, Some(id)) => {
                            bail!("{} is made from {id}, which is not listed before it", model.id)
                        }
                        _ => bail!("a source of {} names neither or both of package and model", model.id),
                    }
                }
            }
            ensure!(made.insert(&model.id), "model {} is listed twice", model.id);
        }
        let (mut photos, mut pixels) = (HashSet::new(), HashSet::new());
        for photo in &self.photos {
            self.package(&photo.package)?;
            ensure!(photos.insert(photo.name()), "photo {} is listed twice", photo.name());
            ensure!(pixels.insert(&photo.sha256), "photo {} is another one under a new name", photo.name());
        }
        Ok(())
    }

    pub(crate) fn package(&self, id: &str) -> Result<&Package> {
        self.packages.iter().find(|p| p.id == id).with_context(|| format!("no package has the id {id}"))
    }

    pub(crate) fn model(&self, id: &str) -> Result<&Model> {
        let known = || self.models.iter().map(|m| m.id.as_str()).collect::<Vec<_>>().join(", ");
        self.models
            .iter()
            .find(|m| m.id == id)
            .with_context(|| format!("no model {id}; there are {}", known()))
    }

    pub(crate) fn photos(&self, purpose: Use) -> impl Iterator<Item = &Photo> {
        self.photos.iter().filter(move |p| p.purpose == purpose)
    }
}

impl Model {
    /// The packages that the model itself needs (not those of the models it is made from).
    pub(crate) fn packages<'a>(&'a self, catalog: &'a Catalog) -> Result<Vec<&'a Package>> {
        let ids: Vec<&String> =
            self.files.iter().flat_map(|f| &f.sources).filter_map(|s| s.package.as_ref()).collect();
        ids.into_iter().map(|id| catalog.package(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> String {
        std::fs::read_to_string(cache::root().join("models/catalog.toml")).unwrap()
    }

    #[test]
    fn the_catalogue_is_sound_and_test_photos_are_not_calibration_photos() {
        let catalog = Catalog::parse(&committed()).unwrap();
        assert!(catalog.photos(Use::Test).count() >= 4 && catalog.photos(Use::Calibration).count() >= 8);
        for model in &catalog.models {
            assert!(
                !model.inputs.is_empty() && !model.outputs.is_empty() && model.memory_mib > 0,
                "{}",
                model.id
            );
            let template = cache::root().join("models").join(&model.id).join("model.toml");
            toml::from_str::<toml::Table>(&std::fs::read_to_string(template).unwrap()).unwrap();
        }
    }

    #[test]
    fn a_broken_catalogue_is_refused_by_name() {
        let good = committed();
        let check = |from: &str, to: &str, complaint: &str| {
            assert!(good.contains(from), "the case is out of date: {from}");
            let error = format!("{:#}", Catalog::parse(&good.replacen(from, to, 1)).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        };
        check("format = 1", "format = 2", "format 2 is unknown");
        check("summary = ", "sumary = ", "unknown field `sumary`");
        check("id = \"human-models\"", "id = \"humans\"", "no package has the id human-models");
        check("committed = \"nanodet-coco/labels.txt\"\n", "", "needs either a recipe or a committed file");
        check("id = \"efficientnet-lite0\"\n", "id = \"renamed\"\n", "which is not listed before it");
        check("id = \"nanodet-coco\"\n", "id = \"efficientnet-lite0\"\n", "listed twice");
        check("skimage/data/coffee.png", "skimage/data/astronaut.png", "astronaut.png is listed twice");
    }
}
