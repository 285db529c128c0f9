//! One worker process, as the daemon sees it: started, spoken to, ended.
//!
//! A thread per worker starts it, waits for it and ends with it. It is that thread whose end the worker's parent-death
//! signal means, so no shorter-lived one may start it; and because it alone reaps, the process id stays the worker's
//! until its handle (a pidfd) is of no use any more.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use engine::OnLost;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Error;
use crate::arena::Arena;
use crate::config::{Config, WorkerProgram};
use crate::frame::{FrameError, SandboxReport, Start, ToDaemon, ToWorker};
use crate::log;
use crate::socket::{Lane, pair};

/// To read the runtime's library from a slow disk and start it.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A killed process is gone when its memory is; this is for one that hangs in a driver.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A started worker. Dropping it ends the process and waits for its end: its memory is free again then.
#[derive(Debug)]
pub(crate) struct Worker {
    process: Arc<Process>,
    control: Lane,
    arena: Arc<Arena>,
    sandbox: SandboxReport,
}

/// The handle that outlives the process.
#[derive(Debug)]
struct Process {
    pid: Pid,
    handle: OwnedFd,
    life: Mutex<Life>,
    end: Condvar,
}

#[derive(Default)]
struct Life {
    /// How it ended.
    ended: Option<String>,
    /// The last line of its log.
    last_line: String,
    /// Whom to tell of the end, as long as the first is there.
    watchers: Vec<(Weak<()>, OnLost)>,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Worker {
    /// Starts the program and waits until its runtime is loaded and its sandbox is up.
    pub(crate) fn start(program: &WorkerProgram, config: &Config, start: Start) -> Result<Self, Error> {
        let arena = Arc::new(Arena::new(config.arena_bytes)?);
        let (mut control, theirs) = pair()?;
        let process = Process::start(program, theirs)?;
        control.set_limit(START_LIMIT)?;
        // From here on an error drops, and so ends, the process.
        let mut worker = Self { process, control, arena, sandbox: SandboxReport::default() };
        // One that ended at once is gone before it is told anything.
        let told = worker.control.send(&ToWorker::Start(start).encode(), Some(worker.arena.file()));
        let answer =
            told.and_then(|()| worker.control.receive()).and_then(|frame| Ok(ToDaemon::decode(frame)?));
        match answer {
            Ok(ToDaemon::Ready { sandbox }) => worker.sandbox = sandbox,
            Ok(ToDaemon::NotReady { detail }) => return Err(Error::NotReady { detail }),
            Ok(_) => return Err(FrameError::OutOfTurn.into()),
            Err(Error::Closed) => {
                let detail = worker.why_ended() + &worker.last_words();
                return Err(Error::NotReady { detail });
            }
            Err(error) => return Err(error),
        }
        Ok(worker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid.as_raw_pid().unsigned_abs()
    }

    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    pub(crate) fn sandbox(&self) -> &SandboxReport {
        &self.sandbox
    }

    /// A new conversation.
    pub(crate) fn open(&self) -> Result<Lane, Error> {
        let (lane, theirs) = pair()?;
        self.control.send(&ToWorker::Open.encode(), Some(theirs.as_fd()))?;
        Ok(lane)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.process.ended().is_some()
    }

    /// Ends the process now; every lane to it breaks. Gives how it ended.
    pub(crate) fn kill(&self) -> String {
        self.process.kill();
        self.process.wait(END_LIMIT)
    }

    /// How it ended, after a lane broke by itself.
    pub(crate) fn why_ended(&self) -> String {
        match self.process.wait(Duration::from_secs(1)) {
            // It closed a lane and lives on: that is no worker any more.
            reason if self.process.ended().is_none() => {
                self.process.kill();
                reason
            }
            reason => reason,
        }
    }

    /// The last line it logged, as a clause behind how it ended; nothing when there was none. For what becomes of
    /// a load: a line from the time of runs might quote a request.
    pub(crate) fn last_words(&self) -> String {
        match self.process.life().last_line.as_str() {
            "" => String::new(),
            line => format!("; its last line was: {line}"),
        }
    }

    /// Tells of the end of the process, at once if that is past already.
    pub(crate) fn on_end(&self, watched: Weak<()>, tell: OnLost) {
        let mut life = self.process.life();
        match life.ended.clone() {
            Some(how) => {
                drop(life);
                tell(&how);
            }
            None => {
                life.watchers.retain(|(watched, _)| watched.strong_count() > 0);
                life.watchers.push((watched, tell));
            }
        }
    }

    /// Private memory that is resident now.
    pub(crate) fn private_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        // Checked last: the number of a process that was reaped can be another's already.
        if self.has_ended() { None } else { kibibytes.checked_mul(1024) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has nothing to lose, and its memory is back as soon as it is gone.
        self.kill();
    }
}

impl Process {
    fn start(program: &WorkerProgram, stdin: OwnedFd) -> Result<Arc<Self>, Error> {
        let mut command = Command::new(&program.program);
        command
            .args(&program.args)
            .env_clear()
            .envs(program.env.iter().map(|(name, value)| (name, value)))
            // Ctrl-C in a terminal is meant for the daemon.
            .process_group(0)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::null())
            // The daemon's own log is no file of a worker's.
            .stderr(Stdio::piped());
        let (tell, started) = sync_channel(1);
        let keeper = move || {
            let child = command.spawn();
            // The command holds our copy of the worker's end: without this its death would not be seen.
            drop(command);
            match child.map_err(Error::Spawn).and_then(Self::of) {
                Ok((process, child)) => {
                    let process = Arc::new(process);
                    // An error means that the starter is gone, which has dropped nothing yet.
                    let told = tell.send(Ok(Arc::clone(&process)));
                    if told.is_err() {
                        process.kill();
                    }
                    process.reap(child);
                }
                Err(error) => {
                    if tell.send(Err(error)).is_err() {
                        tracing::error!("a worker did not start, and nobody waits for it");
                    }
                }
            }
        };
        std::thread::Builder::new().name("worker-keeper".to_owned()).spawn(keeper).map_err(Error::Spawn)?;
        started.recv().map_err(|_| Error::Closed)?
    }

    fn of(mut child: Child) -> Result<(Self, Child), Error> {
        let handle = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| std::io::Error::other("no process id"))
            .and_then(|pid| Ok((pid, pidfd_open(pid, PidfdFlags::empty())?)));
        match handle {
            Ok((pid, handle)) => {
                Ok((Self { pid, handle, life: Mutex::default(), end: Condvar::new() }, child))
            }
            Err(error) => {
                child.kill().map_err(Error::Spawn)?;
                child.wait().map_err(Error::Spawn)?;
                Err(Error::Spawn(error))
            }
        }
    }

    /// Passes its log on until it ends.
    fn reap(&self, mut child: Child) {
        let last_line = child.stderr.take().map(|stderr| log::pass_on(stderr, std::io::stderr()));
        let how = match child.wait() {
            Ok(status) => format!("it ended with {status}"),
            Err(error) => format!("its end is not known: {error}"),
        };
        let mut life = self.life();
        life.last_line = last_line.unwrap_or_default();
        life.ended = Some(how.clone());
        let watchers = std::mem::take(&mut life.watchers);
        drop(life);
        self.end.notify_all();
        for (_watched, tell) in watchers.into_iter().filter(|(watched, _)| watched.strong_count() > 0) {
            tell(&how);
        }
    }

    fn kill(&self) {
        // It may have ended already; then this names no process any more.
        pidfd_send_signal(&self.handle, Signal::KILL).ok();
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> Option<String> {
        self.life().ended.clone()
    }

    fn wait(&self, limit: Duration) -> String {
        let (life, _) = self
            .end
            .wait_timeout_while(self.life(), limit, |life| life.ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        life.ended.clone().unwrap_or_else(|| format!("it did not end within {} s", limit.as_secs()))
    }
}
