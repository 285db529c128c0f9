//! The servers of the field, from their packages: installed into the cache, started on the same model with the same number of
//! threads, stopped with all that they started. What each needs to run here is said where it is started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::{Process, files, free_port, http, wait_for};
use serde_json::json;
use tempfile::TempDir;

use crate::cache::make_executable;
use crate::{cache, python};

const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// The name of the benchmark's model at every server.
pub(super) const MODEL: &str = "conv";

/// A rival that runs.
pub(super) struct Server {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    process: Process,
    _dir: TempDir,
}

/// A rival: what the table calls it, and how it is started on a model.
pub(super) struct Rival {
    pub(super) name: &'static str,
    /// What it reads over HTTP; none where that is no match for its gRPC.
    pub(super) http: Option<&'static str>,
    start: fn(&Place<'_>) -> Result<Command>,
}

pub(super) const RIVALS: [Rival; 3] = [
    Rival { name: "MLServer 1.7.1", http: Some("JSON"), start: mlserver },
    Rival { name: "KServe server 0.21.0", http: None, start: kserve },
    Rival {
        name: "Triton core 2.51.0 + Python backend (pytriton 0.7.0)",
        http: Some("HTTP binary"),
        start: triton,
    },
];

/// Where a rival is started.
struct Place<'a> {
    cache: &'a Path,
    dir: &'a Path,
    http: u16,
    grpc: u16,
    metrics: u16,
}

impl Rival {
    /// Installs it if needed, starts it and waits until it says that the model is ready.
    pub(super) fn start(&self, cache: &Path, model: &Path) -> Result<Server> {
        let dir = tempfile::Builder::new().prefix("mast-rival-").tempdir()?;
        let place =
            Place { cache, dir: dir.path(), http: free_port()?, grpc: free_port()?, metrics: free_port()? };
        let mut command = (self.start)(&place)?;
        command.current_dir(dir.path()).env("BENCH_MODEL", model);
        command.env("PYTHONPYCACHEPREFIX", cache.join("pycache"));
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (http, grpc) = (local(place.http), local(place.grpc));
        let mut process = Process::spawn(self.name, &mut command, &dir.path().join("log"))?;
        let started = Instant::now();
        wait_for(&format!("{} to be ready", self.name), START_LIMIT, || {
            if let Some(status) = process.ended()? {
                bail!("it ended at its start, {status}");
            }
            let asked = http::get(http, &format!("/v2/models/{MODEL}/ready"));
            Ok(asked.is_ok_and(|reply| reply.status == 200).then_some(()))
        })
        .with_context(|| last_lines(&process.log()))?;
        println!("  {} is ready after {:.1} s", self.name, started.elapsed().as_secs_f64());
        Ok(Server { http, grpc, process, _dir: dir })
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

impl Server {
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.stop_tree(STOP_LIMIT);
    }
}

/// The files that a rival is given: `tests/bench/rivals/<name>`.
fn given(name: &str) -> PathBuf {
    cache::root().join("tests/bench/rivals").join(name)
}

/// The interpreter of a rival's own venv.
fn installed(cache: &Path, name: &str) -> Result<PathBuf> {
    let requirements = given(name).join("requirements.txt");
    python::venv(cache, &format!("rivals/{name}"), &requirements)
}

/// Without its pool of processes: on two cores that costs more than it brings.
fn mlserver(place: &Place<'_>) -> Result<Command> {
    let python = installed(place.cache, "mlserver")?;
    let settings = json!({
        "host": "127.0.0.1", "http_port": place.http, "grpc_port": place.grpc, "metrics_port": place.metrics,
        "parallel_workers": 0, "debug": false, "grpc_max_message_length": -1,
    });
    let model =
        json!({ "name": MODEL, "implementation": "runtime.Runtime", "parameters": { "version": "1" } });
    files::write(place.dir.join("settings.json"), settings.to_string())?;
    files::write(place.dir.join("model-settings.json"), model.to_string())?;
    let mut command = Command::new(python.with_file_name("mlserver"));
    command.args(["start", "."]).env("PYTHONPATH", given("mlserver"));
    Ok(command)
}

/// Without a line of log for each request's latency.
fn kserve(place: &Place<'_>) -> Result<Command> {
    let python = installed(place.cache, "kserve")?;
    let mut command = Command::new(python);
    command.arg(given("kserve").join("server.py")).args([place.http.to_string(), place.grpc.to_string()]);
    Ok(command)
}

/// The wheel has Triton's core, its Python backend and no other: the session runs in a stub process. The stub needs a shared
/// libpython of the version that it was built for.
fn triton(place: &Place<'_>) -> Result<Command> {
    let python = installed(place.cache, "triton")?;
    let code = "import sys, sysconfig as s; print(*sys.version_info[:2], sep='.'); print(s.get_path('purelib')); \
                print(s.get_config_var('LIBDIR')); print(s.get_config_var('MULTIARCH') or '')";
    let said = Command::new(&python).args(["-c", code]).output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut lines = said.lines();
    let mut line = || lines.next().context("python said nothing of itself");
    let (version, packages, own, multiarch) = (line()?, Path::new(line()?), line()?, line()?);
    let library = format!("libpython{version}.so.1.0");
    let shared = find_library(&library, &[own, &format!("/usr/lib/{multiarch}"), "/usr/lib"])
        .map_or_else(|| install_library(version, &library, multiarch), Ok)?;
    let server = packages.join("pytriton/tritonserver");
    let (backends, repository) = (place.dir.join("backends"), place.dir.join("repository"));
    let backend = backends.join("python");
    for file in files::walk(&server.join("backends/python"))? {
        let to = backend.join(file.strip_prefix(server.join("backends/python"))?);
        copy(&file, &to)?;
    }
    let stub = "triton_python_backend_stub";
    let built = server.join("python_backend_stubs").join(version).join(stub);
    copy(&built, &backend.join(stub)).with_context(|| format!("no stub for Python {version}"))?;
    copy(&given("triton").join("config.pbtxt"), &repository.join(MODEL).join("config.pbtxt"))?;
    copy(&given("triton").join("model.py"), &repository.join(MODEL).join("1/model.py"))?;
    make_executable(&server.join("bin/tritonserver"))?;
    make_executable(&backend.join(stub))?;
    let mut command = Command::new(server.join("bin/tritonserver"));
    command.arg(format!("--model-repository={}", repository.display()));
    command.arg(format!("--backend-directory={}", backends.display()));
    for (name, port) in [("http", place.http), ("grpc", place.grpc), ("metrics", place.metrics)] {
        command.arg(format!("--{name}-port={port}")).arg(format!("--{name}-address=127.0.0.1"));
    }
    let own = packages.join("nvidia_pytriton.libs");
    command.env("LD_LIBRARY_PATH", format!("{}:{}", own.display(), shared.display()));
    command.env("BENCH_PACKAGES", packages);
    Ok(command)
}

/// The first of `dirs` that has it.
fn find_library(library: &str, dirs: &[&str]) -> Option<PathBuf> {
    dirs.iter().map(PathBuf::from).find(|dir| dir.join(library).exists())
}

fn install_library(version: &str, library: &str, multiarch: &str) -> Result<PathBuf> {
    let package = format!("libpython{version}");
    crate::system::install(&[&package]).with_context(|| format!("no {library} and no package {package}"))?;
    find_library(library, &[&format!("/usr/lib/{multiarch}"), "/usr/lib"])
        .with_context(|| format!("no {library} after installing {package}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        cache::make_dir(parent)?;
    }
    std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}
