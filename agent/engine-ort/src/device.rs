//! What the machine says about its processor and its NVIDIA GPUs, by way of `/proc`.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use engine::Device;

/// Logical and physical cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    /// That this process may use (affinity, cgroup).
    pub(crate) logical: usize,
    pub(crate) physical: usize,
}

impl Cores {
    /// Asked once and remembered.
    pub(crate) fn probe() -> Self {
        static CORES: LazyLock<Cores> = LazyLock::new(Cores::ask);
        *CORES
    }

    fn ask() -> Self {
        let logical = std::thread::available_parallelism().map_or(1, usize::from);
        let physical = fs::read_to_string("/proc/cpuinfo").map_or(0, |text| physical_cores(&text));
        Self { logical, physical: if physical == 0 { logical } else { physical.min(logical) } }
    }
}

/// A GPU of this machine and the kernel driver that runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// "NVIDIA L4"
    pub(crate) name: String,
    /// "535.54.03"; "unknown" when the driver does not say.
    pub(crate) driver: String,
}

impl Gpu {
    /// The first GPU of the NVIDIA driver; `None` without one.
    pub(crate) fn probe() -> Option<Self> {
        let driver = fs::read_to_string("/proc/driver/nvidia/version").ok();
        let mut dirs: Vec<PathBuf> =
            fs::read_dir("/proc/driver/nvidia/gpus").ok()?.flatten().map(|entry| entry.path()).collect();
        dirs.sort();
        let information = fs::read_to_string(dirs.first()?.join("information")).unwrap_or_default();
        Some(Self {
            name: field(&information, "Model").unwrap_or_else(|| "NVIDIA GPU".to_owned()),
            driver: driver.as_deref().and_then(driver_version).unwrap_or_else(|| "unknown".to_owned()),
        })
    }

    pub(crate) fn device(&self) -> Device {
        Device { id: "gpu:0".to_owned(), name: self.name.clone() }
    }
}

pub(crate) fn cpu() -> Device {
    let info = fs::read_to_string("/proc/cpuinfo").ok();
    // Arm kernels give no model name there, but boards name themselves in the device tree.
    let board = || fs::read_to_string("/sys/firmware/devicetree/base/model").ok();
    let name = info.and_then(|info| field(&info, "model name")).or_else(board);
    let name = name.unwrap_or_else(|| format!("{} CPU", std::env::consts::ARCH));
    Device { id: "cpu".to_owned(), name: name.trim_end_matches('\0').to_owned() }
}

/// Anonymous resident memory of this process; `None` on kernels before 4.5.
pub(crate) fn private_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes: u64 = field(&status, "RssAnon")?.strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The value of the first `key : value` line.
fn field(text: &str, key: &str) -> Option<String> {
    fields(text, key).next().map(str::to_owned)
}

fn fields<'text>(text: &'text str, key: &'text str) -> impl Iterator<Item = &'text str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let values = pairs.filter(move |(name, _)| name.trim() == key).map(|(_, value)| value.trim());
    values.filter(|value| !value.is_empty())
}

/// Distinct (package, core) pairs; 0 when the kernel does not tell.
fn physical_cores(cpuinfo: &str) -> usize {
    let cores =
        cpuinfo.split("\n\n").filter_map(|cpu| Some((field(cpu, "physical id"), field(cpu, "core id")?)));
    cores.collect::<HashSet<_>>().len()
}

/// "535.54.03" of "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun ...".
fn driver_version(text: &str) -> Option<String> {
    let words = text.lines().next()?.split_whitespace();
    let is_version =
        |word: &&str| word.contains('.') && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    words.into_iter().find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nphysical id\t: 0\ncore id\t: 0\n\n\
                       processor\t: 1\nmodel name\t: AMD EPYC 7B13\nphysical id\t: 0\ncore id\t: 0\n\n\
                       processor\t: 2\nmodel name\t: AMD EPYC 7B13\nphysical id\t: 0\ncore id\t: 1\n\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("AMD EPYC 7B13"));
        assert_eq!(physical_cores(cpuinfo), 2);
        assert_eq!(physical_cores("processor : 0\nBogoMIPS : 38.40\n"), 0);
        assert_eq!(field("Model: \t\t NVIDIA L4\nIRQ: 1\n", "Model").as_deref(), Some("NVIDIA L4"));
        for (text, version) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\nGCC",
                Some("535.54.03"),
            ),
            ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release", Some("540.4.0")),
            ("", None),
        ] {
            assert_eq!(driver_version(text).as_deref(), version);
        }
    }
}
