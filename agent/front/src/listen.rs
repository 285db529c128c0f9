use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::serve::{Listener, ListenerExt};
use serve::Serve;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::app::{App, Control, MoreMetrics};
use crate::connection::{Limits, accept};
use crate::grpc::{self, Grpc};
use crate::{Config, Error, LogLevel, Traces, route};

/// The ports, open and not served yet: what cannot be bound is known before anything else starts.
pub struct Bound {
    config: Config,
    http: TcpListener,
    grpc: TcpListener,
    metrics: TcpListener,
    addresses: Addresses,
    log_level: Option<LogLevel>,
    traces: Option<Traces>,
}

/// Where the ports really are, which a configured port 0 leaves to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub metrics: SocketAddr,
}

/// Opens the ports of `config`.
///
/// # Errors
/// Those of [`Config::validate`]; [`Error::InUse`] and [`Error::Bind`] with the address.
pub async fn bind(config: Config) -> Result<Bound, Error> {
    config.validate()?;
    let (http, http_address) = listen("http", config.http).await?;
    let (grpc, grpc_address) = listen("grpc", config.grpc).await?;
    let (metrics, metrics_address) = listen("metrics", config.metrics).await?;
    let addresses = Addresses { http: http_address, grpc: grpc_address, metrics: metrics_address };
    Ok(Bound { config, http, grpc, metrics, addresses, log_level: None, traces: None })
}

async fn listen(listener: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { listener, address },
        _ => Error::Bind { listener, address, source },
    };
    let bound = TcpListener::bind(address).await.map_err(failed)?;
    let local = bound.local_addr().map_err(failed)?;
    Ok((bound, local))
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Bound {
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Lets an administrator change the log level.
    #[must_use]
    pub fn log_level(self, log_level: LogLevel) -> Self {
        Self { log_level: Some(log_level), ..self }
    }

    /// Tells of every inference that has ended.
    #[must_use]
    pub fn traces(self, traces: Traces) -> Self {
        Self { traces: Some(traces), ..self }
    }

    /// Serves the ports until `shutdown` turns true or its sender is gone. `more_metrics` is called for every
    /// scrape.
    pub fn serve(
        self,
        serve: &Arc<Serve>,
        more_metrics: Option<MoreMetrics>,
        shutdown: &watch::Receiver<bool>,
    ) -> Running {
        let mut app = App::new(Arc::clone(serve), &self.config);
        app.metrics = more_metrics;
        app.log_level = self.log_level;
        app.traces = self.traces;
        let app = Arc::new(app);
        let limits = Limits::new(&self.config);
        let mut running = Running::default();
        running.spawn("http", nodelay(self.http), route::v2(Arc::clone(&app)), limits.clone(), shutdown);
        let service = Grpc::new(Arc::clone(&app), &self.config, shutdown.clone());
        running.spawn("grpc", nodelay(self.grpc), grpc::router(service), limits.clone().http2(), shutdown);
        running.spawn("metrics", nodelay(self.metrics), route::metrics(app), limits, shutdown);
        running
    }
}

/// Serves the control socket: everything `http` serves, repository control whatever the configuration says, and
/// `/control/…`. Who may connect is decided by the socket file's mode.
pub fn serve_unix(
    listener: UnixListener,
    config: &Config,
    serve: &Arc<Serve>,
    control: impl Into<Control>,
    shutdown: &watch::Receiver<bool>,
) -> Running {
    let mut app = App::new(Arc::clone(serve), config);
    app.repository_control = true;
    let Control { status, log_level, traces } = control.into();
    app.status = Some(status);
    app.log_level = log_level;
    app.traces = traces;
    let mut running = Running::default();
    running.spawn("control socket", listener, route::control(Arc::new(app)), Limits::new(config), shutdown);
    running
}

fn nodelay(listener: TcpListener) -> impl Listener {
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    })
}

/// Listeners that are being served.
#[derive(Default)]
pub struct Running {
    listeners: Vec<Serving>,
}

struct Serving {
    name: &'static str,
    task: JoinHandle<()>,
    open: Arc<AtomicUsize>,
}

impl Running {
    fn spawn<L: Listener>(
        &mut self,
        name: &'static str,
        listener: L,
        router: Router,
        limits: Limits,
        shutdown: &watch::Receiver<bool>,
    ) {
        let open = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, router, limits, Arc::clone(&open), shutdown.clone()));
        self.listeners.push(Serving { name, task, open });
    }

    /// Both together, to be waited for in one budget.
    #[must_use]
    pub fn and(mut self, other: Running) -> Running {
        self.listeners.extend(other.listeners);
        self
    }

    /// Waits for a listener that ends without having been asked to, which is a bug, and names it. Cancel safe.
    pub async fn ended(&mut self) -> String {
        let ended = poll_fn(|context| {
            let mut listeners = self.listeners.iter_mut();
            match listeners.position(|serving| Pin::new(&mut serving.task).poll(context).is_ready()) {
                Some(index) => Poll::Ready(index),
                None => Poll::Pending,
            }
        });
        let index = ended.await;
        self.listeners.swap_remove(index).name.to_owned()
    }

    /// Waits, after the shutdown was requested, until requests in flight have ended and every connection is
    /// closed. What has not stopped within `budget` is closed and named.
    pub async fn finished(self, budget: Duration) -> Vec<String> {
        let deadline = Instant::now() + budget;
        let mut left = Vec::new();
        for Serving { name, mut task, open } in self.listeners {
            match timeout_at(deadline, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => left.push(format!("{name}: {error}")),
                Err(_) => {
                    left.push(format!("{name}: {} open connections", open.load(Ordering::Relaxed)));
                    task.abort();
                }
            }
        }
        left
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.listeners.iter().map(|serving| serving.name)).finish()
    }
}
