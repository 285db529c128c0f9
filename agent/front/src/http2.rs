//! One HTTP/2 connection: what gRPC clients speak, bounded where HTTP/2 itself is not.
//!
//! HTTP/2 gives every stream a window of its own, so a client can keep its connection lively while one reply waits
//! for ever for a window that it never opens. Replies are therefore handed to the connection in pieces
//! ([`Paced`]), and a piece that is not taken for the write timeout ends the connection. A connection without
//! streams for the header timeout is asked to go (GOAWAY) and then closed: the same bound as for HTTP/1.1, from the
//! first moment on. Whoever is gone without a word is found by pings.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::{Buf as _, Bytes};
use http_body::{Frame, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::connection::requested;

/// Requests in flight on one connection.
const STREAMS_LIMIT: u32 = 256;

/// What a client may send ahead of what is read: memory outside the byte budget, per stream and per connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

const FRAME_LIMIT_BYTES: u32 = 64 << 10;
const HEADER_LIMIT_BYTES: u32 = 16 << 10;

/// The largest part of a reply that is given to the connection at once.
const PIECE_BYTES: usize = 64 << 10;

const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// An empty SETTINGS frame, then GOAWAY with ENHANCE_YOUR_CALM and why (RFC 9113 §6.5, §6.8).
pub(crate) const TURNED_AWAY: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections";

/// Serves one connection to its end. Dropping the future closes it.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: S,
    idle_time: Duration,
    write_time: Duration,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let streams = Streams::new();
    let service = {
        let streams = Arc::clone(&streams);
        let router = TowerToHyperService::new(router);
        service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let open = streams.open();
            let answer = hyper::service::Service::call(&router, request);
            async move { answer.await.map(|response: Response| response.map(|body| Paced::new(body, open))) }
        })
    };
    let mut connection = pin!(builder().serve_connection(TokioIo::new(socket), service));
    let mut pulse = interval(idle_time.min(write_time) / 4);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked_to_go: Option<Instant> = None;
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            () = requested(&mut shutdown), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = pulse.tick() => {
                let now = Instant::now();
                if streams.stalled(now) > write_time {
                    tracing::debug!("a client does not read its reply");
                    return Ok(());
                }
                match asked_to_go {
                    None if streams.idle(now) > idle_time => {
                        asked_to_go = Some(now);
                        connection.as_mut().graceful_shutdown();
                    }
                    // It has had time to answer, and to begin nothing new.
                    Some(asked) if streams.idle(now).min(now.duration_since(asked)) > idle_time.min(write_time) => {
                        return Ok(());
                    }
                    _ => {}
                }
            }
        }
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_LIMIT_BYTES)
        .max_header_list_size(HEADER_LIMIT_BYTES)
        .max_send_buf_size(PIECE_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// The streams of one connection, and since when each waits for its client.
#[derive(Debug)]
struct Streams(Mutex<State>);

#[derive(Debug)]
struct State {
    next: u64,
    /// `None` while the reply does not wait for the client.
    open: HashMap<u64, Option<Instant>>,
    /// When the last stream ended.
    idle_since: Instant,
}

impl Streams {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { next: 0, open: HashMap::new(), idle_since: Instant::now() })))
    }

    fn open(self: &Arc<Self>) -> Open {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, None);
        Open { streams: Arc::clone(self), id }
    }

    fn idle(&self, now: Instant) -> Duration {
        let state = self.lock();
        if state.open.is_empty() { now.saturating_duration_since(state.idle_since) } else { Duration::ZERO }
    }

    /// How long the slowest reply has been waiting.
    fn stalled(&self, now: Instant) -> Duration {
        let state = self.lock();
        let oldest = state.open.values().flatten().min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(*since))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream, from its request to the end of its reply.
#[derive(Debug)]
struct Open {
    streams: Arc<Streams>,
    id: u64,
}

impl Open {
    fn waits(&self, since: Option<Instant>) {
        self.streams.lock().open.insert(self.id, since);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.streams.lock();
        state.open.remove(&self.id);
        if state.open.is_empty() {
            state.idle_since = Instant::now();
        }
    }
}

/// A reply in pieces: the connection takes the next one when the client has opened its window for it.
#[derive(Debug)]
pub(crate) struct Paced {
    body: Body,
    rest: Bytes,
    open: Open,
}

impl Paced {
    fn new(body: Body, open: Open) -> Self {
        open.waits(Some(Instant::now()));
        Self { body, rest: Bytes::new(), open }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut trailers = None;
        while self.rest.is_empty() {
            // What is slow now is not the client.
            self.open.waits(None);
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?) {
                None => return Poll::Ready(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => {
                        trailers = Some(frame);
                        break;
                    }
                },
            }
        }
        self.open.waits(Some(Instant::now()));
        if let Some(trailers) = trailers {
            return Poll::Ready(Some(Ok(trailers)));
        }
        let length = self.rest.remaining().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}
