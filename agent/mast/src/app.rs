//! The agent: built from its configuration, spawned as tasks, drained in order. The only file that knows every
//! part; each is handed what it needs of the others through a small trait or a closure.
//!
//! Tasks: the two listeners and the control socket (`front`), the loading of the models, the recorder of metric
//! records and the keeper of `mast uplink` (only with a hub), and a slow tick for watchdog and log. A task that
//! ends by itself ends the agent in order; systemd starts it again and the journal has lost nothing.

mod data_dir;
mod memory;
mod notify;
mod observe;
mod outbox;
mod recorder;
mod uplink;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Backend;
use engine_ort::OrtBackend;
use engine_process::{IsolatingBackend, ProcessBackend};
use serve::Serve;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::cli::worker;
use crate::config::{Config, ConfigError};
use crate::exit::{Exit, chain};
use crate::logging::Log;
use crate::traces::{Exporter, Traces};
use data_dir::DataDir;
use observe::Observer;
use outbox::Outbox;
use recorder::Recorder;
use uplink::{Uplink, UplinkView};

/// Without a watchdog the slow tick still reports repeated log lines.
const TICK: Duration = Duration::from_secs(10);

/// What the tasks have beyond their budgets to be gone.
const END_GRACE: Duration = Duration::from_secs(2);

/// Everything that can fail at start has been done; nothing runs yet.
#[derive(Debug)]
pub(crate) struct App {
    config: Config,
    log: Log,
    _data_dir: DataDir,
    serve: Arc<Serve>,
    front: front::Bound,
    control: UnixListener,
    outbox: Option<Arc<Outbox>>,
    uplink: Option<Uplink<Outbox>>,
    observer: Arc<Observer>,
    traces: Option<(Traces, Exporter)>,
    started: Instant,
}

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    #[error("cannot use the data directory {}: it must be a directory this user can write", path.display())]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error("the data directory {} is in use by another agent: stop that one or use another --data-dir", path.display())]
    Locked { path: PathBuf },
    #[error("cannot open the outbox")]
    Outbox(#[from] journal::Error),
    #[error("ONNX Runtime cannot be used (`mast doctor` has the cure)")]
    Runtime(#[from] engine_ort::Error),
    #[error("cannot listen")]
    Listen(#[from] front::Error),
    #[error("cannot listen on the control socket {}", path.display())]
    Control { path: PathBuf, source: std::io::Error },
    #[error("the agent's version is no identifier of the fleet")]
    Identity(#[from] egress::Error),
}

impl BuildError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            BuildError::Config(_) | BuildError::Identity(_) => Exit::BadConfig,
            BuildError::DataDir { .. }
            | BuildError::Locked { .. }
            | BuildError::Control { .. }
            | BuildError::Outbox(_) => Exit::BadDataDir,
            BuildError::Runtime(_) => Exit::NoRuntime,
            BuildError::Listen(error) if error.is_configuration() => Exit::BadConfig,
            BuildError::Listen(_) => Exit::CannotListen,
        }
    }
}

impl App {
    pub(crate) async fn build(config: Config, log: Log) -> Result<Self, BuildError> {
        let started = Instant::now();
        let policy = config.policy()?;
        let data_dir = DataDir::open(&config.data_dir())?;
        let front = front::bind(config.listen.clone()).await?;
        let control = data_dir.listen()?;

        let resident_before_runtime = memory::resident_bytes();
        let mut onnxruntime = config.onnxruntime.clone();
        onnxruntime.cache_dir.get_or_insert_with(|| data_dir.cache());
        let runtime = engine_ort::load(&onnxruntime)?;
        let inline = Arc::new(OrtBackend::new(&runtime, &onnxruntime));
        let (devices, providers) = (inline.devices(), inline.providers().to_vec());
        let worker = worker::program(&config.log, &onnxruntime, &runtime);
        let workers = Arc::new(ProcessBackend::new(config.engines.clone(), worker, devices, providers));
        let process: Arc<dyn Backend> = Arc::clone(&workers) as _;
        let backend = IsolatingBackend { inline, process, default: config.engines.isolation };
        let backends: Vec<Arc<dyn Backend>> = vec![Arc::new(backend)];
        let serve = Serve::new(config.serve.clone(), policy, backends);

        let outbox = match &config.hub {
            Some(_) => Some(Arc::new(Outbox::open(&data_dir.outbox(), &config.outbox)?)),
            None => None,
        };
        let (uplink, view) = Self::uplink(&config, outbox.as_ref())?;
        let collector = config.traces.collector().map_err(|detail| ConfigError::Invalid { detail })?;
        let traces = collector.map(|collector| Traces::new(&config.traces, collector));
        let observer = Arc::new(Observer {
            started,
            serve: Arc::clone(&serve),
            addresses: front.addresses(),
            credentials: front.credentials(),
            config: config.clone(),
            runtime,
            workers,
            resident_before_runtime,
            outbox: outbox.clone(),
            uplink: view,
        });
        Ok(Self {
            config,
            log,
            _data_dir: data_dir,
            serve,
            front,
            control,
            outbox,
            uplink,
            observer,
            traces,
            started,
        })
    }

    /// The keeper of the way out, where there is a hub and an outbox for it.
    fn uplink(
        config: &Config,
        outbox: Option<&Arc<Outbox>>,
    ) -> Result<(Option<Uplink<Outbox>>, Option<UplinkView>), BuildError> {
        let (Some(hub), Some(site), Some(outbox)) = (&config.hub, &config.site, outbox) else {
            return Ok((None, None));
        };
        let told = observe::uplink_config(hub, site, outbox.status().epoch)?;
        let (uplink, view) = Uplink::new(told, Arc::clone(outbox), config.log.clone());
        Ok((Some(uplink), Some(view)))
    }

    /// Starts the tasks. From here on nothing returns early.
    pub(crate) fn spawn(self) -> Running {
        let addresses = self.front.addresses();
        tracing::info!(http = %addresses.http, grpc = %addresses.grpc, metrics = %addresses.metrics, "listening");
        let mut tasks = JoinSet::new();
        let (stop_front, front_stops) = watch::channel(false);
        let (stop_uplink, uplink_stops) = watch::channel(None);

        let (observer, scraped) = (Arc::clone(&self.observer), self.observer);
        let status = Arc::new(move || observer.status_json());
        let (traces, exporter) = self.traces.unzip();
        let counted = traces.clone();
        let more_metrics = Arc::new(move |text: &mut String| {
            scraped.write_metrics(text);
            if let Some(traces) = &counted {
                traces.write_metrics(text);
            }
        });
        let listen = &self.config.listen;
        let log_level = self.log.level.hook();
        let traced = traces.as_ref().map(Traces::hook);
        let mut bound = self.front.log_level(Arc::clone(&log_level));
        if let Some(traced) = &traced {
            bound = bound.traces(Arc::clone(traced));
        }
        let control = front::Control { status, log_level: Some(log_level), traces: traced };
        let control = front::serve_unix(self.control, listen, &self.serve, control, &front_stops);
        let front = bound.serve(&self.serve, Some(more_metrics), &front_stops).and(control);
        let (stop_exporter, exporter_stops) = watch::channel(());
        if let Some(exporter) = exporter {
            tasks.spawn(async move {
                exporter.run(exporter_stops).await;
                Task::Exporter
            });
        }

        let recorder = self
            .outbox
            .as_ref()
            .map(|outbox| Recorder::new(Arc::clone(&self.serve), Arc::clone(outbox), self.started));
        if let Some(uplink) = self.uplink {
            tasks.spawn(async move {
                uplink.run(uplink_stops).await;
                Task::Uplink
            });
        }
        let interval = self.config.hub.as_ref().map_or(TICK, link::Config::interval);
        let (stop_recorder, recorder_stops) = watch::channel(());
        if let Some(recorder) = recorder {
            tasks.spawn(async move {
                record(recorder, interval, recorder_stops).await;
                Task::Recorder
            });
        }

        let serve = Arc::clone(&self.serve);
        // Follows the repository in mode `poll`, and returns at once in the others.
        let loading = tokio::spawn(async move {
            let summary = serve.load_all().await;
            let (ready, failed) = (summary.ready.len(), summary.failed.len());
            tracing::info!(ready, failed, "models loaded");
            notify::tell(&[sd_notify::NotifyState::Status(&format!(
                "{ready} models ready, {failed} failed"
            ))]);
            serve.poll(std::future::pending()).await;
        });
        notify::tell(&[sd_notify::NotifyState::Ready]);
        Running {
            tasks,
            loading,
            front,
            stop_front,
            stop_uplink,
            stop_recorder,
            stop_exporter,
            serve: self.serve,
            log: self.log,
            config: self.config,
            _data_dir: self._data_dir,
        }
    }
}

/// A task that ends only when told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Exporter,
    Recorder,
    Uplink,
}

/// The signals that ask for the end, and SIGHUP, which asks for certificates and keys to be read again. Listened to
/// from before the agent is built, so that none is missed.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one. Cancel safe: signals are kept.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The person at the terminal has lost patience.
    async fn interrupt(&mut self) {
        self.interrupt.recv().await;
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    End(&'static str),
    Reload,
}

/// Why the agent ends.
#[derive(Debug)]
pub(crate) enum Cause {
    Signal(&'static str),
    TaskEnded(String),
}

/// The agent at work.
#[derive(Debug)]
pub(crate) struct Running {
    tasks: JoinSet<Task>,
    loading: tokio::task::JoinHandle<()>,
    front: front::Running,
    stop_front: watch::Sender<bool>,
    stop_uplink: watch::Sender<Option<Duration>>,
    stop_recorder: watch::Sender<()>,
    stop_exporter: watch::Sender<()>,
    serve: Arc<Serve>,
    log: Log,
    config: Config,
    _data_dir: DataDir,
}

impl Running {
    /// Until a signal asks for the end or a task ends by itself.
    pub(crate) async fn wait(&mut self, signals: &mut Signals) -> Cause {
        let mut tick = interval(notify::watchdog_interval().unwrap_or(TICK).min(TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Every arm is cancel safe: signals are kept, join_next keeps its set, an interval keeps its time.
            tokio::select! {
                name = self.front.ended() => return Cause::TaskEnded(name),
                asked = signals.next() => match asked {
                    Asked::End(signal) => return Cause::Signal(signal),
                    Asked::Reload => self.reload(),
                },
                Some(ended) = self.tasks.join_next() => {
                    return Cause::TaskEnded(match ended {
                        Ok(task) => format!("{task:?}"),
                        Err(error) => error.to_string(),
                    });
                }
                _ = tick.tick() => {
                    self.log.repeats.report();
                    notify::tell(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        }
    }

    /// Reads certificates and keys again. What cannot be used is logged, and what is in use stays.
    fn reload(&self) {
        let credentials = self.front.credentials();
        tokio::task::spawn_blocking(move || credentials.reload().ok());
    }

    /// [`Self::drain`], cut short by a SIGINT that comes meanwhile.
    pub(crate) async fn end(self, cause: Cause, signals: &mut Signals) -> Exit {
        tokio::select! {
            exit = self.drain(cause) => exit,
            () = signals.interrupt() => {
                tracing::error!("interrupted while stopping: what is in flight is dropped");
                Exit::DrainTimeout
            }
        }
    }

    /// Ends in order and within the budget: ready off, requests in flight finished, the last interval
    /// committed, the last words to the hub. Names what did not end.
    async fn drain(mut self, cause: Cause) -> Exit {
        match &cause {
            Cause::Signal(signal) => tracing::info!(signal, "stopping"),
            Cause::TaskEnded(task) => tracing::error!(task, "a task of the agent ended; stopping"),
        }
        notify::tell(&[sd_notify::NotifyState::Stopping]);
        self.loading.abort();
        let uplink_budget = Duration::from_millis(self.config.shutdown.uplink_budget_ms);
        let requests_budget = Duration::from_millis(self.config.shutdown.budget_ms) - uplink_budget;

        let requests_end = Instant::now() + requests_budget;
        let mut left = self.serve.drain(requests_budget).await;
        self.stop_front.send_replace(true);
        left.extend(self.front.finished(requests_end.saturating_duration_since(Instant::now())).await);
        for name in &left {
            tracing::warn!(name, "did not finish within the shutdown budget");
        }
        let last_words = async {
            // The uplink sends what is committed, so the last interval comes first.
            self.stop_recorder.send_replace(());
            self.stop_exporter.send_replace(());
            if self.config.hub.is_some() {
                join(&mut self.tasks, |ended| ended == Task::Recorder).await;
            }
            self.stop_uplink.send_replace(Some(uplink_budget));
            join(&mut self.tasks, |_| false).await;
        };
        let all_ended = timeout(uplink_budget + END_GRACE, last_words).await.is_ok();
        self.log.repeats.report();
        if !all_ended {
            tracing::error!(tasks = self.tasks.len(), "tasks did not end within the shutdown budget");
        }
        tracing::info!("stopped");
        match cause {
            Cause::TaskEnded(_) => Exit::TaskEnded,
            Cause::Signal(_) if !all_ended || !left.is_empty() => Exit::DrainTimeout,
            Cause::Signal(_) => Exit::Ok,
        }
    }
}

/// Waits until `last` says so of a task that ended, or until all have ended.
async fn join(tasks: &mut JoinSet<Task>, last: impl Fn(Task) -> bool) {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(task) if last(task) => return,
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a task did not end in order"),
        }
    }
}

/// Closes an interval whenever it is over, and the partial one at the end.
async fn record(mut recorder: Recorder, length: Duration, mut stop: watch::Receiver<()>) {
    let mut interval = interval(length);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval.tick().await;
    loop {
        let stopping = tokio::select! {
            _ = interval.tick() => false,
            _ = stop.changed() => true,
        };
        let closed = tokio::task::spawn_blocking(move || {
            let closed = recorder.close_interval();
            (recorder, closed)
        });
        match closed.await {
            Ok((back, Ok(()))) => recorder = back,
            Ok((_, Err(error))) if stopping => {
                tracing::error!(error = chain(&error), "the last counts were not committed and end here");
                return;
            }
            Ok((back, Err(error))) => {
                tracing::error!(
                    error = chain(&error),
                    "metric records were not committed; the next will hold their counts"
                );
                recorder = back;
            }
            // Only a panic in there; the agent ends in order and says so.
            Err(_) => return,
        }
        if stopping {
            return;
        }
    }
}
