use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Tree, wait_for};

/// A child whose standard output and error go to a file, killed by its own id when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; `log` is appended to, so that a restarted process keeps the story.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).context("cannot open a log")?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// `kill -9` and reap.
    pub fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }

    /// Waits for its end, however long that takes.
    pub fn wait_without_limit(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait_for(&what, limit, || self.ended()).with_context(|| self.log())
    }

    /// SIGTERM, and `kill -9` of it and all that it started and left behind, by their own ids, if that takes longer than `limit`.
    pub fn stop_tree(&mut self, limit: Duration) {
        let tree = Tree::of(self.id());
        self.signal(Signal::TERM).ok();
        self.wait(limit).ok();
        self.kill().ok();
        let left = tree.iter().flat_map(Tree::pids).filter(|pid| *pid != self.id());
        for pid in left.filter_map(|pid| i32::try_from(pid).ok()) {
            kill_by_id(pid).ok();
        }
    }

    /// CPU time used so far, of all its threads, in clock ticks of 10 ms: utime + stime of proc_pid_stat(5).
    pub fn cpu(&self) -> Result<Duration> {
        cpu_of(self.id())
    }

    /// Resident memory in bytes: VmRSS of proc_pid_status(5).
    pub fn resident_bytes(&self) -> Result<u64> {
        resident_bytes_of(self.id())
    }
}

pub(crate) fn resident_bytes_of(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("no VmRSS in /proc/PID/status")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

pub(crate) fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything; the fields count from behind it.
    let (_, rest) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = [11, 12]
        .into_iter()
        .map(|index| {
            fields.get(index).and_then(|field| field.parse::<u64>().ok()).context("a short /proc/PID/stat")
        })
        .sum::<Result<u64>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill().ok();
    }
}

/// `kill -9` of a process that is no child of ours, such as a child of the agent.
pub fn kill_by_id(pid: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).context("not a process id")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill {pid:?}"))
}

/// A port of the loopback that was free a moment ago, for programs that cannot choose one themselves.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
