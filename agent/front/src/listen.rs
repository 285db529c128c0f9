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
use crate::tls::Alpn;
use crate::{Config, Credentials, Error, LogLevel, Traces, route};

/// The ports, open and not served yet: what cannot be bound is known before anything else starts.
pub struct Bound {
    config: Config,
    credentials: Credentials,
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
/// Those of [`Config::validate`] and [`Credentials::load`]; [`Error::InUse`] and [`Error::Bind`] with the address.
pub async fn bind(config: Config) -> Result<Bound, Error> {
    config.validate()?;
    let credentials = Credentials::load(&config)?;
    let (http, http_address) = listen("http", config.http).await?;
    let (grpc, grpc_address) = listen("grpc", config.grpc).await?;
    let (metrics, metrics_address) = listen("metrics", config.metrics).await?;
    let addresses = Addresses { http: http_address, grpc: grpc_address, metrics: metrics_address };
    Ok(Bound { config, credentials, http, grpc, metrics, addresses, log_level: None, traces: None })
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

    /// The certificates and keys in use, for the status.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
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
        app.credentials = self.credentials.clone();
        let app = Arc::new(app);
        let limits = Limits::new(&self.config);
        let behind = |alpn| {
            let tls = self.credentials.tls.as_ref().map(|tls| tls.handshake(alpn));
            limits.clone().behind(tls)
        };
        let mut running = Running { credentials: self.credentials.clone(), ..Running::default() };
        let http = route::v2(Arc::clone(&app));
        running.spawn("http", nodelay(self.http), http, behind(Alpn::Http1), shutdown);
        let service = Grpc::new(Arc::clone(&app), shutdown.clone());
        let grpc = route::guarded(grpc::router(service), &app);
        running.spawn("grpc", nodelay(self.grpc), grpc, behind(Alpn::H2).http2(), shutdown);
        let metrics = route::metrics(app);
        running.spawn("metrics", nodelay(self.metrics), metrics, behind(Alpn::Http1), shutdown);
        if !self.credentials.is_empty() {
            let task = tokio::spawn(self.credentials.keep(shutdown.clone()));
            running.listeners.push(Serving {
                name: "reader of certificates and keys",
                task,
                open: Arc::default(),
            });
        }
        running
    }
}

/// Serves the control socket: everything `http` serves, administration, and `/control/…`. No key is asked for: who
/// may connect is decided by the socket file's mode.
pub fn serve_unix(
    listener: UnixListener,
    config: &Config,
    serve: &Arc<Serve>,
    control: impl Into<Control>,
    shutdown: &watch::Receiver<bool>,
) -> Running {
    let mut app = App::new(Arc::clone(serve), config);
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
    credentials: Credentials,
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

    /// The certificates and keys in use.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// Reads the files of certificates and keys again, changed or not: what SIGHUP asks for. Blocks on the disk.
    ///
    /// # Errors
    /// Those of [`Credentials::reload`]; what is in use then stays in use.
    pub fn reload(&self) -> Result<(), Error> {
        self.credentials.reload()
    }

    /// Both together, to be waited for in one budget. Of `other`, no certificates and keys are read again.
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
