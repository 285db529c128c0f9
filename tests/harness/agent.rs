use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Connection, Request, Response};
use crate::{Process, Tree, files, wait_for, workspace};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How an agent is to be started: a temporary directory with its configuration, data and models.
#[derive(Debug)]
pub struct Setup {
    dir: TempDir,
    config: String,
    repository: PathBuf,
    data_dir: PathBuf,
    env: Vec<(String, String)>,
    program: Option<PathBuf>,
}

impl Setup {
    /// An empty repository, no hub, the built-in policy.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mast-test-").tempdir()?;
        let (repository, data_dir) = (dir.path().join("models"), dir.path().join("data"));
        std::fs::create_dir_all(&repository)?;
        Ok(Self { dir, config: String::new(), repository, data_dir, env: Vec::new(), program: None })
    }

    /// Text of `mast.toml`, after what is there.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// A residency policy, written to a file and named in the configuration.
    pub fn policy(self, toml: &str) -> Result<Self> {
        let path = self.dir().join("policy.toml");
        files::write(&path, toml)?;
        Ok(self.config(&format!("[policy]\npath = {path:?}")))
    }

    /// Adds `<model>/1/model.onnx`.
    pub fn model(self, model: &str, onnx: &[u8], toml: &str) -> Result<Self> {
        files::add_model(&self.repository, model, 1, onnx, toml)?;
        Ok(self)
    }

    /// Writes a file of a model's folder, such as `config.pbtxt`.
    pub fn model_file(self, path: &str, content: impl AsRef<[u8]>) -> Result<Self> {
        files::write(self.repository.join(path), content)?;
        Ok(self)
    }

    /// Serves this repository instead of the temporary one.
    #[must_use]
    pub fn repository_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.repository = path.into();
        self
    }

    #[must_use]
    pub fn data_dir_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = path.into();
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    /// This `mast` instead of the one beside the running program.
    #[must_use]
    pub fn program_at(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    fn program(&self) -> Result<PathBuf> {
        self.program.clone().map_or_else(|| workspace::binary("mast"), Ok)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn repository(&self) -> &Path {
        &self.repository
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The command line, ready to run: ports of the system's choice unless the configuration says otherwise.
    pub fn command(&self) -> Result<Command> {
        let config = self.dir().join("mast.toml");
        files::write(&config, &self.config)?;
        let mut command = Command::new(self.program()?);
        command.arg("run").arg("--config").arg(config);
        command.arg("--model-repository").arg(&self.repository).arg("--data-dir").arg(&self.data_dir);
        if !self.config.contains("[listen]\nhttp") {
            command.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        }
        command.env("ORT_DYLIB_PATH", workspace::runtime_library()?);
        command.current_dir(workspace::root()).envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Runs it where it must not start: its exit code and what it said. Fails if it is still there after the limit.
    pub fn run_to_its_end(&self) -> Result<(ExitStatus, String)> {
        let log = self.dir().join("stderr.log");
        let mut process = Process::spawn("mast run", &mut self.command()?, &log)?;
        let status = process.wait(START_LIMIT)?;
        Ok((status, process.log()))
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Result<Agent> {
        let agent = self.start_unready()?;
        agent.wait_for_status("ready", |status| status["ready"] == true)?;
        Ok(agent)
    }

    /// Starts it and waits until its control socket answers, ready or not.
    pub fn start_unready(self) -> Result<Agent> {
        let mut agent = Agent::spawn(self)?;
        agent.learn_addresses()?;
        Ok(agent)
    }
}

/// A running `mast run`, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
    process: Process,
    setup: Setup,
}

impl Agent {
    fn spawn(setup: Setup) -> Result<Self> {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let log = setup.dir().join("stderr.log");
        let process = Process::spawn("mast run", &mut setup.command()?, &log)?;
        Ok(Self { http: nowhere, grpc: nowhere, metrics: nowhere, process, setup })
    }

    fn learn_addresses(&mut self) -> Result<()> {
        let socket = self.control_socket();
        let status = wait_for("the control socket", START_LIMIT, || {
            if let Some(status) = self.process.ended()? {
                bail!("mast run ended at its start, {status}:\n{}", self.process.log());
            }
            let answer = Connection::unix(&socket).and_then(|mut c| c.send(&Request::get("/control/status")));
            Ok(answer.ok().filter(|answer| answer.status == 200))
        })
        .with_context(|| self.process.log())?
        .json()?;
        let address = |key: &str| -> Result<SocketAddr> {
            status[key]
                .as_str()
                .and_then(|text| text.parse().ok())
                .with_context(|| format!("no {key} in {status}"))
        };
        (self.http, self.grpc, self.metrics) = (address("http")?, address("grpc")?, address("metrics")?);
        Ok(())
    }

    /// Starts it again with the same configuration and data, after [`Agent::terminate`] or [`Agent::kill`].
    pub fn start_again(&mut self) -> Result<()> {
        let log = self.setup.dir().join("stderr.log");
        self.process = Process::spawn("mast run", &mut self.setup.command()?, &log)?;
        self.learn_addresses()?;
        self.wait_for_status("ready", |status| status["ready"] == true)?;
        Ok(())
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn control_socket(&self) -> PathBuf {
        self.setup.data_dir().join("control.sock")
    }

    /// `GET /control/status`.
    pub fn status(&self) -> Result<Value> {
        self.control(&Request::get("/control/status"))?.json()
    }

    /// A request over the control socket.
    pub fn control(&self, request: &Request) -> Result<Response> {
        Connection::unix(&self.control_socket())?.send(request)
    }

    /// What the repository index says of a model, a row for each version that is known.
    pub fn index(&self, model: &str) -> Result<Vec<Value>> {
        let index = self.control(&Request::post("/v2/repository/index", ""))?;
        let rows = index.json()?.as_array().cloned().with_context(|| format!("no index: {index}"))?;
        Ok(rows.into_iter().filter(|row| row["name"] == model).collect())
    }

    /// Asks for a model to be loaded, as its operator may.
    pub fn load(&self, model: &str) -> Result<Response> {
        self.control(&Request::post(&format!("/v2/repository/models/{model}/load"), "{}"))
    }

    pub fn unload(&self, model: &str) -> Result<Response> {
        self.control(&Request::post(&format!("/v2/repository/models/{model}/unload"), "{}"))
    }

    /// The processes that run models.
    pub fn workers(&self) -> Result<Vec<u32>> {
        Ok(Tree::of(self.process.id())?.with_argument("worker"))
    }

    /// Waits until the status is as wanted and returns it.
    pub fn wait_for_status(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        wait_for(&format!("an agent that is {what}"), START_LIMIT, || {
            last = self.status()?;
            Ok(wanted(&last).then(|| last.clone()))
        })
        .with_context(|| self.log())
    }

    pub fn send(&self, request: &Request) -> Result<Response> {
        http::send(self.http, request)
    }

    /// Sends a request that must succeed.
    pub fn send_ok(&self, request: &Request) -> Result<Response> {
        let response = self.send(request)?;
        if response.status != 200 {
            bail!("expected 200, got {response}\n{}", self.log());
        }
        Ok(response)
    }

    /// The value of a series of `/metrics`, `name{labels}` as printed.
    pub fn metric(&self, series: &str) -> Result<Option<f64>> {
        let text = http::get(self.metrics, "/metrics")?.text();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(value.and_then(|value| value.trim().parse().ok()))
    }

    /// Everything it wrote to stderr, over restarts.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn ask_to_stop(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits for its end after [`Agent::ask_to_stop`].
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        self.process.wait(STOP_LIMIT)
    }

    /// Waits for its end, however long that takes.
    pub fn wait_for_end_without_limit(&mut self) -> Result<ExitStatus> {
        self.process.wait_without_limit()
    }

    /// SIGTERM, then its exit status.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.ask_to_stop()?;
        self.wait_for_end()
    }

    /// `kill -9`, as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Runs `mast <args>` against this agent.
    pub fn mast<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        mast(&self.setup.program()?, args, &[("MAST_DATA_DIR", self.setup.data_dir().as_os_str())])
    }
}

/// Runs `mast <args>` to its end.
pub fn run_mast<S: AsRef<OsStr>>(args: &[S], env: &[(&str, &OsStr)]) -> Result<Output> {
    mast(&workspace::binary("mast")?, args, env)
}

fn mast<S: AsRef<OsStr>>(program: &Path, args: &[S], env: &[(&str, &OsStr)]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied()).current_dir(workspace::root());
    command.stdin(Stdio::null()).output().context("cannot run mast")
}
