//! Traces: one span per request, with its stages, sent by OTLP to a collector on this box.
//!
//! Off unless `[traces] otlp` names a collector. Its address is a loopback address, so that this cannot become a way
//! out of the box. The request path hands over what it knows already and never waits: what does not fit into the
//! queue is dropped and counted, and so is what the collector does not take. A span holds the model, what ran it,
//! times and the kind of outcome; no id, label or name of a client's.
//!
//! Format: OTLP 1.x over HTTP, `POST /v1/traces`, `application/x-protobuf` (opentelemetry-proto's own messages).

mod spans;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use front::Finished;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// Requests sent to the collector at once.
const BATCH_LIMIT: usize = 512;
/// How long a request waits for others to be sent with.
const BATCH_DELAY: Duration = Duration::from_millis(500);
/// What a collector may take to answer, and the longest answer that is read.
const EXPORT_TIME: Duration = Duration::from_secs(5);
const ANSWER_LIMIT_BYTES: usize = 64 << 10;
/// After the agent was told to stop.
const LAST_EXPORT_TIME: Duration = Duration::from_secs(1);

/// The section `[traces]`.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TracesConfig {
    /// `http://127.0.0.1:4318`: a collector on this box. Without it, no traces.
    pub(crate) otlp: Option<String>,
    /// Requests that wait to be sent; one more is dropped and counted.
    pub(crate) queue_limit: usize,
    /// One request in so many is traced, where its client has not decided (`traceparent`).
    pub(crate) one_in: u64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self { otlp: None, queue_limit: 2048, one_in: 1 }
    }
}

impl TracesConfig {
    /// Where the collector is; what is wrong with the section otherwise.
    pub(crate) fn collector(&self) -> Result<Option<SocketAddr>, String> {
        for (key, value) in [("queue_limit", self.queue_limit == 0), ("one_in", self.one_in == 0)] {
            if value {
                return Err(format!("traces.{key} must be at least 1"));
            }
        }
        let Some(url) = &self.otlp else { return Ok(None) };
        let place = url.strip_prefix("http://").map(|place| place.trim_end_matches('/'));
        let address: Option<SocketAddr> = place.and_then(|place| place.parse().ok());
        match address {
            Some(address) if address.ip().is_loopback() => Ok(Some(address)),
            _ => Err(format!(
                "traces.otlp = {url:?} must be http://, a loopback address in digits and a port, such as \
                 http://127.0.0.1:4318: traces do not leave this box"
            )),
        }
    }
}

/// The near end: what the request path gives to, and what counts.
#[derive(Debug, Clone)]
pub(crate) struct Traces {
    queue: mpsc::Sender<Finished>,
    counts: Arc<Counts>,
    one_in: u64,
}

#[derive(Debug, Default)]
struct Counts {
    /// Requests whose client left the choice to us.
    undecided: AtomicU64,
    exported: AtomicU64,
    queue_full: AtomicU64,
    not_taken: AtomicU64,
}

/// The far end, to be run as a task.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: mpsc::Receiver<Finished>,
    counts: Arc<Counts>,
    collector: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("cannot connect")]
    Connect(#[from] std::io::Error),
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
    #[error("it answered {0}")]
    Refused(hyper::StatusCode),
    #[error("it did not answer in time")]
    TooSlow(#[from] tokio::time::error::Elapsed),
}

impl Traces {
    pub(crate) fn new(config: &TracesConfig, collector: SocketAddr) -> (Self, Exporter) {
        let (sender, receiver) = mpsc::channel(config.queue_limit);
        let counts = Arc::<Counts>::default();
        let traces = Self { queue: sender, counts: Arc::clone(&counts), one_in: config.one_in };
        (traces, Exporter { queue: receiver, counts, collector, connection: None })
    }

    /// For the front: takes a request that has ended, or drops it.
    pub(crate) fn hook(&self) -> front::Traces {
        let traces = self.clone();
        Arc::new(move |finished| traces.take(finished))
    }

    fn take(&self, finished: Finished) {
        let wanted = match &finished.parent {
            Some(parent) => parent.sampled,
            None => self.counts.undecided.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in),
        };
        if wanted && self.queue.try_send(finished).is_err() {
            self.counts.queue_full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Prometheus text format 0.0.4.
    pub(crate) fn write_metrics(&self, text: &mut String) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // Writing into a String cannot fail.
        write!(
            text,
            "# HELP mast_traces_exported_total Requests whose spans the collector took.\n\
             # TYPE mast_traces_exported_total counter\n\
             mast_traces_exported_total {}\n\
             # HELP mast_traces_dropped_total Requests whose spans were dropped.\n\
             # TYPE mast_traces_dropped_total counter\n\
             mast_traces_dropped_total{{reason=\"queue\"}} {}\n\
             mast_traces_dropped_total{{reason=\"collector\"}} {}\n",
            of(&self.counts.exported),
            of(&self.counts.queue_full),
            of(&self.counts.not_taken)
        )
        .ok();
    }
}

impl Exporter {
    /// Until `stop` changes or its sender is gone; then sends what is queued, once and briefly.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            // Both arms are cancel safe: what recv_many has taken is in the batch.
            let stopping = tokio::select! {
                taken = self.queue.recv_many(&mut batch, BATCH_LIMIT) => taken == 0,
                _ = stop.changed() => true,
            };
            if !stopping && batch.len() < BATCH_LIMIT {
                tokio::select! {
                    () = sleep(BATCH_DELAY) => {}
                    _ = stop.changed() => {}
                }
            }
            while batch.len() < BATCH_LIMIT
                && let Ok(finished) = self.queue.try_recv()
            {
                batch.push(finished);
            }
            let time = if stopping { LAST_EXPORT_TIME } else { EXPORT_TIME };
            self.export(&batch, time).await;
            batch.clear();
            if stopping {
                return;
            }
        }
    }

    async fn export(&mut self, batch: &[Finished], time: Duration) {
        if batch.is_empty() {
            return;
        }
        let requests = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let sent = timeout(time, self.post(spans::encode(batch))).await;
        match sent.map_err(ExportError::from).flatten() {
            Ok(()) => {
                self.counts.exported.fetch_add(requests, Ordering::Relaxed);
            }
            Err(error) => {
                self.connection = None;
                self.counts.not_taken.fetch_add(requests, Ordering::Relaxed);
                tracing::warn!(reason = wire::chain(&error), "the trace collector did not take a batch");
            }
        }
    }

    async fn post(&mut self, body: Bytes) -> Result<(), ExportError> {
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_ready() => connection,
            _ => self.connect().await?,
        };
        let request = Request::post("/v1/traces")
            .header(HOST, self.collector.to_string())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body))?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        // Read to its end, so that the connection can be used again; what it says is of no use here.
        let read = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
        if !status.is_success() {
            return Err(ExportError::Refused(status));
        }
        if read.is_ok() {
            self.connection = Some(connection);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ExportError> {
        let stream = TcpStream::connect(self.collector).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped, which is when the exporter ends.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the trace collector ended");
            }
        });
        Ok(sender)
    }
}

#[cfg(test)]
mod tests;
