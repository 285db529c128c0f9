use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;

use crate::{Process, files, free_port, wait_until};

const START_LIMIT: Duration = Duration::from_secs(30);

/// A real mosquitto that keeps nothing: what it had not handed on is gone when it is killed.
#[derive(Debug)]
pub struct Mosquitto {
    pub port: u16,
    dir: TempDir,
    process: Process,
}

impl Mosquitto {
    pub fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mast-mosquitto-").tempdir()?;
        let port = free_port()?;
        let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
        let config = format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n{user}");
        files::write(dir.path().join("mosquitto.conf"), config)?;
        let process = spawn(&dir)?;
        let mut broker = Self { port, dir, process };
        broker.wait_until_it_listens()?;
        Ok(broker)
    }

    /// `kill -9`: sessions, queues and retained messages are lost.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = spawn(&self.dir)?;
        self.wait_until_it_listens()
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        wait_until_listening("mosquitto", self.port, &mut self.process)
    }
}

fn spawn(dir: &TempDir) -> Result<Process> {
    let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().map(PathBuf::from);
    let program =
        program.into_iter().find(|path| path.exists()).unwrap_or_else(|| PathBuf::from("mosquitto"));
    let mut command = Command::new(program);
    command.arg("-c").arg(dir.path().join("mosquitto.conf"));
    Process::spawn("mosquitto", &mut command, &dir.path().join("log"))
}

fn wait_until_listening(name: &str, port: u16, process: &mut Process) -> Result<()> {
    wait_until(&format!("{name} on port {port}"), START_LIMIT, || {
        if let Some(status) = process.ended()? {
            bail!("{name} ended at its start, {status}: {}", process.log());
        }
        Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
    })
}

/// The broker that is built with the workspace (rumqttd), for a machine without mosquitto. As a child, so that it can be killed.
#[derive(Debug)]
pub struct EmbeddedBroker {
    pub port: u16,
    program: PathBuf,
    dir: TempDir,
    process: Process,
}

impl EmbeddedBroker {
    /// `program` is `mast-test-broker`.
    pub fn start(program: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mast-broker-").tempdir()?;
        let port = free_port()?;
        let process = spawn_embedded(program, port, &dir)?;
        let mut broker = Self { port, program: program.to_owned(), dir, process };
        wait_until_listening("mast-test-broker", broker.port, &mut broker.process)?;
        Ok(broker)
    }

    /// `kill -9`: everything it held is lost.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = spawn_embedded(&self.program, self.port, &self.dir)?;
        wait_until_listening("mast-test-broker", self.port, &mut self.process)
    }
}

fn spawn_embedded(program: &Path, port: u16, dir: &TempDir) -> Result<Process> {
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string()]);
    Process::spawn("mast-test-broker", &mut command, &dir.path().join("log"))
}
