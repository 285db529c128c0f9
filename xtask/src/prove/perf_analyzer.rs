//! NVIDIA's own load generator against the daemon, over HTTP and gRPC, at 1 to 64 at once. It reads metadata, configuration and
//! statistics, and ends with an error where they are not as Triton's or where its windows do not agree.
//!
//! Its wheel wants glibc 2.38. An older system runs it under the libc of Debian 13, whose packages are fetched into the cache by apt
//! with a configuration of its own: the system is left as it is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use harness::{Setup, onnx};
use serde_json::{Value, json};

use super::Effort;
use crate::cache::{self, Stamp};
use crate::python::{self, finish, twice};
use crate::step::Step;
use crate::test::succeed;

const VERSION: &str = "2.60.0";
const LIBC: (u32, u32) = (2, 38);
const PACKAGES: [&str; 3] = ["libc6", "libstdc++6", "libgcc-s1"];
const SUITE: &str = "trixie";

const UNSTABLE: &str = "Failed to obtain stable measurement";
/// By how much the last three windows may differ.
const STABLE: [&str; 2] = ["--stability-percentage", "30"];

pub(super) fn prove(programs: &Path, _: Effort) -> Result<Value> {
    let analyzer = Analyzer::ensure(&cache::dir()?)?;
    let toml =
        "providers = [\"cpu\"]\nthreads = 1\nspinning = false\nmax_batch_size = 8\nqueue_limit = 256\n";
    let agent =
        Setup::new()?.program_at(programs.join("mast")).model("add", &onnx::add_one(256), toml)?.start()?;
    let http = analyzer.stable("http", agent.http)?;
    let grpc = analyzer.stable("grpc", agent.grpc)?;
    Ok(json!({ "http": http, "grpc": grpc }))
}

/// The program, and the loader and libraries that it is run under where the system's own are too old.
struct Analyzer {
    program: PathBuf,
    libraries: Option<PathBuf>,
}

impl Analyzer {
    fn ensure(cache: &Path) -> Result<Self> {
        ensure!(std::env::consts::ARCH == "x86_64", "perf_analyzer is published for x86_64 only");
        let _lock = cache::lock(cache)?;
        let dir = cache.join("perf-analyzer");
        let program = dir.join("wheel/perf_analyzer/bin/perf_analyzer");
        let stamp = Stamp::new(cache, "perf-analyzer", VERSION.to_owned());
        if !stamp.holds(std::slice::from_ref(&program)) {
            stamp.remove()?;
            fetch_wheel(cache, &dir)?;
            cache::make_executable(&program)?;
            stamp.write(std::slice::from_ref(&program))?;
        }
        let libraries = if libc()? >= LIBC { None } else { Some(fetch_libc(cache, &dir)?) };
        Ok(Self { program, libraries })
    }

    fn command(&self) -> Command {
        let Some(libraries) = &self.libraries else { return Command::new(&self.program) };
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(format!("{}:/lib/x86_64-linux-gnu", libraries.display()));
        command.arg(&self.program);
        command
    }

    /// [`Analyzer::run`], once more if the machine was too restless for the tool's taste.
    fn stable(&self, protocol: &str, address: SocketAddr) -> Result<Value> {
        self.run(protocol, address).or_else(|first| {
            ensure!(format!("{first:#}").contains(UNSTABLE), first);
            println!("{protocol}: {UNSTABLE}, trying once more");
            self.run(protocol, address)
        })
    }

    /// Throughput and p95 by concurrency. The tool ends with an error where it was answered one, and where the last three windows
    /// of a concurrency differ by more than [`STABLE`].
    fn run(&self, protocol: &str, address: SocketAddr) -> Result<Value> {
        let mut command = self.command();
        command.args(["-m", "add", "-u", &address.to_string(), "-i", protocol, "-b", "1"]);
        command.args(["--concurrency-range", "1:64:21", "--measurement-mode", "count_windows"]);
        command.args(["--measurement-request-count", "2000", "-r", "10", "--percentile", "95"]).args(STABLE);
        command.args(["--input-data", "random"]);
        let output = command.output().context("cannot run perf_analyzer")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        ensure!(output.status.success(), "perf_analyzer over {protocol}: {}\n{said}", output.status);
        let found = summary(&said);
        ensure!(found.len() == 4, "perf_analyzer over {protocol} did not measure all:\n{said}");
        println!("{protocol}: {found:?}");
        Ok(json!(found))
    }
}

/// The lines `Concurrency: N, throughput: X infer/sec, latency Y usec` with which it ends.
fn summary(said: &str) -> BTreeMap<u32, (f64, f64)> {
    let line = |line: &str| {
        let rest = line.strip_prefix("Concurrency: ")?;
        let (concurrency, rest) = rest.split_once(", throughput: ")?;
        let (throughput, rest) = rest.split_once(" infer/sec, latency ")?;
        let latency = rest.strip_suffix(" usec")?;
        Some((concurrency.parse().ok()?, (throughput.parse().ok()?, latency.parse().ok()?)))
    };
    said.lines().filter_map(line).collect()
}

/// For Python 3.12 and glibc 2.38, whatever runs here: pip would otherwise take an older release that only says hello.
fn fetch_wheel(cache: &Path, dir: &Path) -> Result<()> {
    let python = python::ensure(cache)?;
    let step = Step::begin("perf_analyzer", "downloading");
    let downloads = cache.join("downloads");
    cache::make_dir(&downloads)?;
    twice(|| {
        let mut pip = python::pip(&python, "download");
        pip.args(["--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--platform"]);
        pip.arg(format!("manylinux_{}_{}_x86_64", LIBC.0, LIBC.1)).arg("--dest").arg(&downloads);
        pip.arg(format!("perf-analyzer=={VERSION}"));
        finish(pip, &mut |_| {})
    })?;
    let wheel = downloads
        .join(format!("perf_analyzer-{VERSION}-py3-none-manylinux_{}_{}_x86_64.whl", LIBC.0, LIBC.1));
    let mut unpack = Command::new(&python);
    unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(dir.join("wheel"));
    finish(unpack, &mut |_| {})?;
    crate::package::discard(&wheel)?;
    step.done(&format!("perf_analyzer {VERSION}"));
    Ok(())
}

/// The version of the system's glibc: `ldd (…) 2.36`.
fn libc() -> Result<(u32, u32)> {
    let output = Command::new("ldd").arg("--version").output().context("cannot run ldd")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = said.lines().next().and_then(|line| line.rsplit(' ').next()?.split_once('.'));
    let (major, minor) = version.with_context(|| format!("ldd says {said:?}"))?;
    Ok((major.parse()?, minor.parse()?))
}

/// Debian 13's libc, unpacked into the cache; the folder of its libraries.
fn fetch_libc(cache: &Path, dir: &Path) -> Result<PathBuf> {
    let root = dir.join(SUITE);
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let files = ["ld-linux-x86-64.so.2", "libc.so.6", "libstdc++.so.6", "libgcc_s.so.1"];
    let files = files.map(|file| libraries.join(file));
    let stamp = Stamp::new(cache, "perf-analyzer-libc", SUITE.to_owned());
    if stamp.holds(&files) {
        return Ok(libraries);
    }
    stamp.remove()?;
    let step = Step::begin("libc of Debian 13", "downloading");
    let apt = tempfile::tempdir()?;
    let place = |name: &str| apt.path().join(name);
    for folder in ["lists/partial", "cache/archives/partial", "parts", "packages"] {
        cache::make_dir(&place(folder))?;
    }
    harness::files::write(place("status"), "")?;
    harness::files::write(place("debian.sources"), sources()?)?;
    let config = format!(
        "Dir::Etc::sourcelist {:?};\nDir::Etc::sourceparts {:?};\nDir::State::status {:?};\nDir::State::lists {:?};\nDir::Cache {:?};\n",
        place("debian.sources"),
        place("parts"),
        place("status"),
        place("lists"),
        place("cache")
    );
    harness::files::write(place("apt.conf"), config)?;
    let apt_get = |args: &[&str]| -> Result<()> {
        let mut command = Command::new("apt-get");
        command.args(["-q"]).args(args).current_dir(place("packages"));
        command.env("APT_CONFIG", place("apt.conf")).env("DEBIAN_FRONTEND", "noninteractive");
        succeed(command)
    };
    let download: Vec<&str> = ["download"].into_iter().chain(PACKAGES).collect();
    twice(|| apt_get(&["update"]).and_then(|()| apt_get(&download))).with_context(|| {
        format!(
            "CANNOT RUN perf_analyzer HERE: this system's libc is older than {}.{} and Debian 13's packages cannot be fetched",
            LIBC.0, LIBC.1
        )
    })?;
    for package in harness::files::walk(&place("packages"))? {
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&package).arg(&root);
        succeed(unpack)?;
    }
    stamp.write(&files)?;
    step.done(&PACKAGES.join(", "));
    Ok(libraries)
}

/// The system's own mirror of Debian, with the suite of Debian 13.
fn sources() -> Result<String> {
    let mut listed = vec![PathBuf::from("/etc/apt/sources.list")];
    listed.extend(harness::files::walk(Path::new("/etc/apt/sources.list.d")).unwrap_or_default());
    let texts = listed.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let mirror = texts.into_iter().find_map(|text| mirror(&text));
    let Some(mirror) = mirror else { bail!("no mirror of Debian in /etc/apt") };
    Ok(format!(
        "Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    ))
}

/// The first address that ends in `/debian`, in either form of a list of sources.
fn mirror(text: &str) -> Option<String> {
    let words =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    words.map(|word| word.trim_end_matches('/')).find(|word| word.ends_with("/debian")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read_and_nothing_else() {
        let said = "  Throughput: 3 infer/sec\nInferences/Second vs. Client p95 Batch Latency\n\
                    Concurrency: 1, throughput: 1234.5 infer/sec, latency 900 usec\n\
                    Concurrency: 64, throughput: 8000 infer/sec, latency 9100 usec\n";
        assert_eq!(summary(said), BTreeMap::from([(1, (1234.5, 900.0)), (64, (8000.0, 9100.0))]));
        assert_eq!(summary("Failed to obtain"), BTreeMap::new());
    }

    #[test]
    fn a_mirror_is_found_in_both_forms() {
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(mirror(text).as_deref(), expected, "{text}");
        check(
            "Types: deb\n# URIs: http://old/debian\nURIs: http://mirror/debian\n",
            Some("http://mirror/debian"),
        );
        check("deb http://mirror/debian/ bookworm main\n", Some("http://mirror/debian"));
        check("deb http://mirror/debian-security bookworm main\n", None);
    }
}
