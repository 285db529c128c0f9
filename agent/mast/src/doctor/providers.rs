use std::path::{Path, PathBuf};

use engine::Provider;

use super::models::{self, Found};
use super::{Outcome, Subject};

/// What each model asks for and this machine can give. Whether a provider really runs a model is found out at load.
pub(super) fn check(subject: &Subject) -> Outcome {
    let config = match subject.config() {
        Ok(config) => config,
        Err(outcome) => return outcome,
    };
    let wanted = models::find(&config.serve.model_repository).unwrap_or_default();
    let beside =
        engine_ort::find(&config.onnxruntime).ok().and_then(|path| path.parent().map(Path::to_owned));
    let machine = Machine {
        driver: nvidia_driver(Path::new("/proc/driver/nvidia")),
        libcuda: library_dirs().iter().any(|dir| dir.join("libcuda.so.1").exists()),
        cuda: beside.as_ref().is_some_and(|dir| dir.join("libonnxruntime_providers_cuda.so").exists()),
        tensorrt: beside
            .as_ref()
            .is_some_and(|dir| dir.join("libonnxruntime_providers_tensorrt.so").exists()),
    };
    judge(&machine, &wanted)
}

#[derive(Debug, Default)]
struct Machine {
    /// Version of the NVIDIA kernel driver.
    driver: Option<String>,
    /// The driver's library in user space.
    libcuda: bool,
    /// The runtime's provider libraries, beside the runtime.
    cuda: bool,
    tensorrt: bool,
}

impl Machine {
    /// Why the provider cannot work here, if that is plain.
    fn lacks(&self, provider: Provider) -> Option<&'static str> {
        match provider {
            Provider::Cpu => None,
            Provider::Wgpu => Some("this build has no wgpu"),
            Provider::Cuda | Provider::TensorRt if self.driver.is_none() => Some("no NVIDIA driver"),
            Provider::Cuda | Provider::TensorRt if !self.libcuda => Some("no libcuda.so.1"),
            Provider::Cuda if !self.cuda => Some("no libonnxruntime_providers_cuda.so beside the runtime"),
            Provider::TensorRt if !self.tensorrt => {
                Some("no libonnxruntime_providers_tensorrt.so beside the runtime")
            }
            Provider::Cuda | Provider::TensorRt => None,
        }
    }
}

fn judge(machine: &Machine, wanted: &[Found]) -> Outcome {
    let mut text = match &machine.driver {
        Some(driver) => format!("NVIDIA driver {driver}; usable: "),
        None => "usable: ".to_owned(),
    };
    let usable: Vec<&str> =
        Provider::ALL.into_iter().filter(|one| machine.lacks(*one).is_none()).map(Provider::name).collect();
    text.push_str(&usable.join(", "));
    let configs = || wanted.iter().filter_map(|found| Some((&found.name, found.config.as_ref().ok()?)));
    for (name, config) in configs() {
        let reason = config.require.and_then(|provider| Some((provider, machine.lacks(provider)?)));
        if let Some((provider, reason)) = reason {
            return Outcome::failed(
                format!("{text}; model {name} requires {provider}: {reason}"),
                "install what is missing, or take `require` out of its model.toml",
            );
        }
        if config.providers.iter().all(|provider| machine.lacks(*provider).is_some()) {
            return Outcome::failed(
                format!("{text}; model {name} lists no provider that works here"),
                "add \"cpu\" to the providers in its model.toml",
            );
        }
    }
    let missed = [Provider::TensorRt, Provider::Cuda].into_iter().find_map(|provider| {
        let asked = configs().any(|(_, config)| config.providers.contains(&provider));
        Some((provider, machine.lacks(provider).filter(|_| asked)?))
    });
    match (missed, &machine.driver) {
        // A GPU that is not used is worth a word; a box without one runs as it should.
        (Some((provider, reason)), Some(_)) => Outcome::warning(
            format!("{text}; {provider} is asked for: {reason}"),
            "install the GPU build of ONNX Runtime and the driver's libraries; until then the next provider serves",
        ),
        (Some((_, reason)), None) => {
            Outcome::ok(format!("{text} ({reason}, so what asks for a GPU falls back)"))
        }
        (None, _) => Outcome::ok(text),
    }
}

/// "535.54.03" from the driver's version file.
fn nvidia_driver(proc: &Path) -> Option<String> {
    let text = std::fs::read_to_string(proc.join("version")).ok()?;
    let numbers =
        |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let version = text.lines().next()?.split_whitespace().find(numbers).unwrap_or("of unknown version");
    Some(version.to_owned())
}

/// Where the loader looks: `LD_LIBRARY_PATH`, the usual folders, and those of `/etc/ld.so.conf.d`.
fn library_dirs() -> Vec<PathBuf> {
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&named).collect();
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    dirs.extend(["/lib", "/usr/lib", "/lib64", "/usr/lib64"].map(PathBuf::from));
    dirs.extend([format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")].map(PathBuf::from));
    for entry in std::fs::read_dir("/etc/ld.so.conf.d").into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        dirs.extend(text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from));
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_models_ask_for_against_what_the_machine_has() {
        let check = |machine: &Machine, config: &str, word: &str, part: &str| {
            let config = serve::ModelConfig::parse(config).map_err(|error| error.to_string());
            let found = Found { name: "m".to_owned(), versions: vec![1], config, problems: vec![] };
            let outcome = judge(machine, &[found]);
            assert_eq!(outcome.word(), word, "{outcome:?}");
            assert!(outcome.text().contains(part), "{outcome:?} has no '{part}'");
        };
        let bare = Machine::default();
        let half = Machine { driver: Some("550.1".to_owned()), libcuda: true, cuda: false, tensorrt: false };
        let full = Machine { driver: Some("550.1".to_owned()), libcuda: true, cuda: true, tensorrt: true };
        check(&bare, "providers = [\"cpu\"]", "ok", "usable: cpu");
        check(&bare, "providers = [\"cuda\", \"cpu\"]", "ok", "falls back");
        check(&bare, "require = \"cuda\"", "failed", "no NVIDIA driver");
        check(&bare, "providers = [\"cuda\"]", "failed", "no provider");
        check(&half, "providers = [\"cuda\", \"cpu\"]", "warning", "providers_cuda.so");
        check(&half, "providers = [\"cpu\"]", "ok", "driver 550.1");
        check(&full, "require = \"cuda\"", "ok", "tensorrt, cuda, cpu");
    }

    #[test]
    fn the_driver_is_read_from_proc() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nvidia_driver(dir.path()), None);
        let text =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6\nGCC version: 12.2.0\n";
        super::super::tests::put(&dir.path().join("version"), text.as_bytes());
        assert_eq!(nvidia_driver(dir.path()), Some("535.54.03".to_owned()));
    }
}
