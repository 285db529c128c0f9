//! The child with the way out: started, served, and started again when it ends by itself.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use link::{OutboxSource, UplinkConfig, UplinkState};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::{LogConfig, LogFormat};
use crate::exit::chain;

/// A child that ends at once is not started in a tight loop.
const RESTART_MIN: Duration = Duration::from_secs(1);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// A child that lived this long has earned a quick restart.
const HEALTHY: Duration = Duration::from_secs(60);
/// After its socket is closed, a child has this long to go by itself.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// What `mast status` shows of the uplink.
#[derive(Debug, Clone)]
pub(crate) struct UplinkView {
    pub(crate) broker: String,
    pub(crate) state: watch::Receiver<UplinkState>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pid: AtomicU32,
    restarts: AtomicU64,
}

impl UplinkView {
    pub(crate) fn pid(&self) -> Option<u32> {
        Some(self.shared.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }
}

/// Keeps `mast uplink` running until `shutdown` carries a budget.
#[derive(Debug)]
pub(crate) struct Uplink<S> {
    config: UplinkConfig,
    outbox: Arc<S>,
    log: LogConfig,
    state: watch::Sender<UplinkState>,
    shared: Arc<Shared>,
}

impl<S: OutboxSource + 'static> Uplink<S> {
    pub(crate) fn new(config: UplinkConfig, outbox: Arc<S>, log: LogConfig) -> (Self, UplinkView) {
        let (state, receiver) = watch::channel(UplinkState::default());
        let shared = Arc::new(Shared::default());
        let broker = config.hub.broker.clone();
        let view = UplinkView { broker, state: receiver, shared: Arc::clone(&shared) };
        (Self { config, outbox, log, state, shared }, view)
    }

    pub(crate) async fn run(self, mut shutdown: watch::Receiver<Option<Duration>>) {
        let mut delay = RESTART_MIN;
        loop {
            let started = tokio::time::Instant::now();
            let ended = self.run_once(shutdown.clone()).await;
            if shutdown.borrow().is_some() {
                if let Err(error) = ended {
                    tracing::warn!(error = chain(&error), "the uplink did not end in order");
                }
                return;
            }
            let error = match ended {
                Ok(()) => "it ended without being asked to".to_owned(),
                Err(error) => chain(&error),
            };
            if started.elapsed() >= HEALTHY {
                delay = RESTART_MIN;
            }
            tracing::error!(error, ?delay, "the uplink ended; it is started again");
            self.state.send_modify(|state| state.detail = Some(format!("the uplink ended: {error}")));
            self.shared.restarts.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                () = sleep(delay) => {}
                // Cancel safe: a watch receiver keeps its value.
                _ = shutdown.wait_for(Option::is_some) => return,
            }
            delay = (delay * 2).min(RESTART_MAX);
        }
    }

    async fn run_once(&self, shutdown: watch::Receiver<Option<Duration>>) -> Result<(), UplinkError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(UplinkError::Socket)?;
        let mut child = self.spawn(theirs)?;
        self.shared.pid.store(child.id().unwrap_or(0), Ordering::Relaxed);
        ours.set_nonblocking(true).map_err(UplinkError::Socket)?;
        let socket = tokio::net::UnixStream::from_std(ours).map_err(UplinkError::Socket)?;
        let outbox: Arc<dyn OutboxSource> = Arc::clone(&self.outbox) as Arc<dyn OutboxSource>;
        let served =
            link::serve_uplink(socket, self.config.clone(), outbox, self.state.clone(), shutdown).await;
        // The socket is closed now, which is the child's signal to go.
        match timeout(EXIT_GRACE, child.wait()).await {
            Ok(Ok(status)) => tracing::debug!(%status, "the uplink's process ended"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot wait for the uplink's process"),
            Err(_) => {
                tracing::warn!("the uplink's process did not end and is killed");
                child.kill().await.map_err(UplinkError::Kill)?;
            }
        }
        self.shared.pid.store(0, Ordering::Relaxed);
        Ok(served?)
    }

    fn spawn(&self, socket: std::os::unix::net::UnixStream) -> Result<Child, UplinkError> {
        let format = match self.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        };
        // The very program that runs here, also after an upgrade put another in its place: both ends of the socket are
        // of one binary. In a process group of its own: Ctrl-C in a terminal is meant for the agent, which tells the
        // child when to end.
        Command::new("/proc/self/exe")
            .process_group(0)
            .args(["uplink", "--log-level", &self.log.level, "--log-format", format])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(UplinkError::Spawn)
    }
}

/// Why one run of the child ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UplinkError {
    #[error("cannot make the socket for the uplink")]
    Socket(#[source] std::io::Error),
    #[error("cannot start the uplink's process")]
    Spawn(#[source] std::io::Error),
    #[error("cannot kill the uplink's process")]
    Kill(#[source] std::io::Error),
    #[error("the uplink failed")]
    Served(#[from] link::Error),
}
