//! One listener and its connections: one task accepts, one task per connection serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Config;
use crate::http2;
use crate::socket::Socket;
use crate::tls::Handshake;

/// The longest header of a request. It is also the most a connection reads ahead, which is memory outside the
/// byte budget.
const HEADER_LIMIT_BYTES: usize = 64 << 10;

/// Connections that are being told that there are too many; beyond that they are just closed.
const TURNED_AWAY_LIMIT: usize = 64;

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Content-Length: 32\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{\"error\":\"too many connections\"}";

/// How long a connection that is turned away may take to read why.
const TURNED_AWAY_TIME: Duration = Duration::from_secs(2);

/// What a connection may cost, and what it takes to have one.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    connections: usize,
    header_time: Duration,
    write_time: Duration,
    protocol: Protocol,
    tls: Option<Handshake>,
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    /// With prior knowledge or by ALPN, as gRPC clients speak it.
    Http2,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            connections: config.connection_limit,
            header_time: Duration::from_millis(config.header_timeout_ms),
            write_time: Duration::from_millis(config.write_timeout_ms),
            protocol: Protocol::Http1,
            tls: None,
        }
    }

    pub(crate) fn http2(self) -> Self {
        Self { protocol: Protocol::Http2, ..self }
    }

    pub(crate) fn behind(self, tls: Option<Handshake>) -> Self {
        Self { tls, ..self }
    }
}

/// Serves until `shutdown` turns true or its sender is gone; then stops accepting, lets requests in flight end
/// and returns. Dropping the future closes every connection.
pub(crate) async fn accept<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    open: Arc<AtomicUsize>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut turned_away = JoinSet::new();
    loop {
        let stream = tokio::select! {
            (stream, _peer) = listener.accept() => stream,
            Some(ended) = connections.join_next() => {
                report(ended);
                continue;
            }
            Some(_) = turned_away.join_next() => continue,
            () = requested(&mut shutdown) => break,
        };
        let socket = Socket::new(stream, limits.write_time);
        if connections.len() >= limits.connections {
            // In TLS saying so would take a handshake, which is what there is no room for.
            if limits.tls.is_none() && turned_away.len() < TURNED_AWAY_LIMIT {
                let said = match limits.protocol {
                    Protocol::Http1 => TURNED_AWAY,
                    Protocol::Http2 => http2::TURNED_AWAY,
                };
                turned_away.spawn(turn_away(socket, said));
            }
            continue;
        }
        let place = Place::new(&open);
        connections.spawn(serve(socket, limits.clone(), router.clone(), shutdown.clone(), place));
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: Socket<S>,
    limits: Limits,
    router: Router,
    shutdown: watch::Receiver<bool>,
    _place: Place,
) {
    let Some(tls) = limits.tls.clone() else {
        return speak(socket, &limits, router, shutdown).await;
    };
    let mut stopping = shutdown.clone();
    let shaken = tokio::select! {
        biased;
        shaken = tls.shake(socket) => shaken,
        () = requested(&mut stopping) => None,
    };
    if let Some((stream, peer)) = shaken {
        speak(stream, &limits, peer.before(router), shutdown).await;
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    limits: &Limits,
    router: Router,
    shutdown: watch::Receiver<bool>,
) {
    let ended = match limits.protocol {
        Protocol::Http1 => serve_http1(stream, limits.header_time, router, shutdown).await,
        Protocol::Http2 => {
            http2::serve(stream, limits.header_time, limits.write_time, router, shutdown).await
        }
    };
    if let Err(error) = ended {
        // The client's doing: slow, gone or not speaking HTTP.
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: S,
    header_time: Duration,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_time).max_buf_size(HEADER_LIMIT_BYTES);
    let connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = requested(&mut shutdown) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<S>, reason: &[u8]) {
    let said = timeout(TURNED_AWAY_TIME, async {
        socket.write_all(reason).await?;
        socket.shutdown().await
    });
    if !matches!(said.await, Ok(Ok(()))) {
        tracing::debug!("a connection over the limit did not read why it was closed");
    }
}

pub(crate) async fn requested(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a request too.
    shutdown.wait_for(|requested| *requested).await.ok();
}

/// Counts an open connection.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
