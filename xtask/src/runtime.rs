//! ONNX Runtime from its wheel: the exact library that docs/decisions/0002 examined.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::cache::{self, Stamp};
use crate::catalog::{Package, Registry};
use crate::package;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runtime {
    format: u32,
    version: String,
    #[serde(rename = "wheel")]
    wheels: Vec<Wheel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Cpu,
    Gpu,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wheel {
    kind: Kind,
    arch: String,
    name: String,
    file: String,
    bytes: u64,
    sha256: String,
    #[serde(rename = "library")]
    libraries: Vec<Library>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Library {
    file: String,
    sha256: String,
}

const NOTICES: [&str; 2] = ["LICENSE", "ThirdPartyNotices.txt"];

fn load() -> Result<Runtime> {
    let text = std::fs::read_to_string(cache::root().join("models/runtime.toml"));
    let text = text.context("cannot read models/runtime.toml")?;
    let runtime: Runtime = toml::from_str(&text).context("models/runtime.toml")?;
    ensure!(runtime.format == 1, "models/runtime.toml has format {}, this xtask reads 1", runtime.format);
    Ok(runtime)
}

/// The library of this machine's architecture, fetched and checked: `…/libonnxruntime.so.<version>`.
pub(crate) fn ensure(cache: &Path, python: &Path, kind: Kind) -> Result<PathBuf> {
    let runtime = load()?;
    let arch = std::env::consts::ARCH;
    let wheel = runtime.wheels.iter().find(|w| w.kind == kind && w.arch == arch).with_context(|| {
        format!("models/runtime.toml has no {kind:?} wheel of ONNX Runtime {} for {arch}", runtime.version)
    })?;
    let suffix = if kind == Kind::Gpu { "-gpu" } else { "" };
    let place = format!("{}-{arch}{suffix}", runtime.version);
    let dir = cache.join("onnxruntime").join(&place);
    let mut files: Vec<PathBuf> = wheel.libraries.iter().map(|l| dir.join(&l.file)).collect();
    let library = files.first().context("the wheel lists no library")?.clone();
    files.extend(NOTICES.map(|n| dir.join(n)));
    files.push(dir.join("libonnxruntime.so"));
    let stamp = Stamp::new(cache, &format!("onnxruntime-{place}"), wheel.sha256.clone());
    if stamp.holds(&files) {
        return Ok(library);
    }
    stamp.remove()?;
    let archive = package::fetch(cache, python, &wheel.package(&runtime.version), arch)?;
    let temp = cache.join("onnxruntime").join(format!("{place}.new"));
    let members = wheel.libraries.iter().map(|l| format!("onnxruntime/capi/{}", l.file));
    let members: Vec<String> = members.chain(NOTICES.map(|n| format!("onnxruntime/{n}"))).collect();
    package::unpack(python, &archive, &temp, &members)?;
    for library in &wheel.libraries {
        cache::expect_sha256(&temp.join(&library.file), &library.sha256)?;
    }
    let short = temp.join("libonnxruntime.so");
    if short.symlink_metadata().is_err() {
        std::os::unix::fs::symlink(&wheel.libraries[0].file, &short)
            .context("cannot link libonnxruntime.so")?;
    }
    cache::replace(&temp, &dir)?;
    stamp.write(&files)?;
    package::discard(&archive)?;
    Ok(library)
}

impl Wheel {
    fn package(&self, version: &str) -> Package {
        Package {
            id: self.name.clone(),
            registry: Registry::Pypi,
            name: self.name.clone(),
            version: version.to_owned(),
            file: self.file.clone(),
            bytes: self.bytes,
            sha256: self.sha256.clone(),
            licence: "MIT".to_owned(),
            licence_stated: "LICENSE in the wheel".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_architectures_have_a_cpu_wheel_and_the_core_library_comes_first() {
        let runtime = load().unwrap();
        for arch in ["x86_64", "aarch64"] {
            assert!(runtime.wheels.iter().any(|w| w.kind == Kind::Cpu && w.arch == arch), "{arch}");
        }
        for wheel in &runtime.wheels {
            assert_eq!(wheel.libraries[0].file, format!("libonnxruntime.so.{}", runtime.version));
            assert!(wheel.file.contains(&wheel.arch) && wheel.file.contains("cp311"), "{}", wheel.file);
        }
    }
}
