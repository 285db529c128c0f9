//! The agent's end of the socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, sleep_until};

use crate::frames::{self, FromUplink, StoredRecord, ToUplink};
use crate::{BrokerReason, Error, OutboxSource, UplinkConfig, UplinkState};

/// After its budget the child has this long to be gone.
const GRACE: Duration = Duration::from_secs(1);
/// How long an outbox is left alone that said there was more and gave nothing.
const FRUITLESS_WAIT: Duration = Duration::from_millis(100);

/// Serves one `mast uplink` from its start to its end: hands it records, frees what the hub acknowledged.
///
/// `socket` is one end of a pair whose other end is the child's standard input. The latest state goes to `state`. When
/// `shutdown` becomes `Some(budget)`, the child is asked to send what is pending and to end within it. Does not start,
/// wait for or kill the child; to be dropped if it must end at once.
///
/// # Errors
/// [`Error::Closed`] if the child ended without being asked to: start another. [`Error::Frame`] if it
/// broke the protocol, [`Error::Outbox`] if the outbox failed.
pub async fn serve_uplink(
    socket: UnixStream,
    config: UplinkConfig,
    outbox: Arc<dyn OutboxSource>,
    state: watch::Sender<UplinkState>,
    mut shutdown: watch::Receiver<Option<Duration>>,
) -> Result<(), Error> {
    config.hub.validate()?;
    let (reader, mut writer) = socket.into_split();
    frames::write(&mut writer, &ToUplink::Config(Box::new(config))).await?;
    let (sender, frames) = mpsc::channel(4);
    let reading = ReadTask(tokio::spawn(frames::read_all(reader, sender)));
    let mut serving =
        Serving { writer, outbox, state, wanted: None, may_have: false, fruitless: 0, deadline: None };
    let result = serving.serve(frames, &mut shutdown).await;
    drop(reading);
    serving.state.send_modify(|state| {
        state.connected = false;
        if result.is_ok() {
            state.reason = BrokerReason::Stopped;
        }
    });
    result
}

/// Ends with what it belongs to, also when that is dropped.
struct ReadTask(JoinHandle<()>);

impl Drop for ReadTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A `take` that has not been answered.
#[derive(Clone, Copy)]
struct Wanted {
    from_seq: u64,
    limit_records: usize,
    limit_bytes: usize,
}

struct Serving {
    writer: OwnedWriteHalf,
    outbox: Arc<dyn OutboxSource>,
    state: watch::Sender<UplinkState>,
    wanted: Option<Wanted>,
    /// The open `take` is worth a look into the outbox.
    may_have: bool,
    /// Looks in a row that found nothing although the outbox said there was something.
    fruitless: u32,
    /// Set once the child was asked to end.
    deadline: Option<Instant>,
}

impl Serving {
    async fn serve(
        &mut self,
        mut frames: mpsc::Receiver<Result<FromUplink, Error>>,
        shutdown: &mut watch::Receiver<Option<Duration>>,
    ) -> Result<(), Error> {
        loop {
            self.answer().await?;
            let outbox = Arc::clone(&self.outbox);
            let (wanted, fruitless) = (self.wanted, self.fruitless);
            let more = async {
                let Some(wanted) = wanted else { return std::future::pending().await };
                if fruitless > 1 {
                    // It contradicts itself; that must not cost a processor.
                    sleep(FRUITLESS_WAIT).await;
                }
                outbox.wait_beyond(wanted.from_seq.saturating_sub(1)).await;
            };
            let over = async {
                match self.deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => self.take_in(frame?).await?,
                    None if self.deadline.is_some() => return Ok(()),
                    None => return Err(Error::Closed),
                },
                () = more => {
                    self.may_have = true;
                    self.fruitless = self.fruitless.saturating_add(1);
                }
                budget = asked_to_end(shutdown), if self.deadline.is_none() => {
                    self.deadline = Some(Instant::now() + budget + GRACE);
                    self.may_have = true;
                    let budget_ms = u64::try_from(budget.as_millis()).unwrap_or(u64::MAX);
                    self.write(&ToUplink::Shutdown { budget_ms }).await?;
                }
                () = over => {
                    tracing::warn!("the uplink did not end within its budget");
                    return Ok(());
                }
            }
        }
    }

    /// Answers the open `take`, if there is one and there is something to give, or nothing is to come any more.
    async fn answer(&mut self) -> Result<(), Error> {
        let Some(Wanted { from_seq, limit_records, limit_bytes }) = self.wanted else { return Ok(()) };
        if !std::mem::take(&mut self.may_have) {
            return Ok(());
        }
        let outbox = Arc::clone(&self.outbox);
        let records = blocking(move || outbox.take(from_seq, limit_records, limit_bytes), "read").await?;
        if records.is_empty() && self.deadline.is_none() {
            return Ok(());
        }
        self.wanted = None;
        self.fruitless = 0;
        let records = records.into_iter().map(|(seq, bytes)| StoredRecord { seq, bytes }).collect();
        self.write(&ToUplink::Records(records)).await
    }

    async fn take_in(&mut self, frame: FromUplink) -> Result<(), Error> {
        match frame {
            FromUplink::Take { from_seq, limit_records, limit_bytes } => {
                if self.wanted.is_some() {
                    return Err(Error::Frame {
                        problem: "a second take before the first was answered",
                        source: None,
                    });
                }
                self.wanted = Some(Wanted { from_seq, limit_records, limit_bytes });
                self.may_have = true;
                Ok(())
            }
            FromUplink::Acknowledged { upto_seq } => {
                let outbox = Arc::clone(&self.outbox);
                blocking(move || outbox.acknowledge(upto_seq), "free").await
            }
            FromUplink::Rejected { seq } => {
                tracing::error!(seq, "the outbox holds bytes that are no record; they were not sent");
                Ok(())
            }
            FromUplink::State(state) => {
                self.state.send_replace(*state);
                Ok(())
            }
        }
    }

    async fn write(&mut self, frame: &ToUplink) -> Result<(), Error> {
        match frames::write(&mut self.writer, frame).await {
            Err(Error::Socket { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
                // The child is gone; the reader says so next, after what it said last.
                Ok(())
            }
            other => other,
        }
    }
}

/// Resolves when `shutdown` holds a budget. Never if its sender is gone without one: the owner then drops the whole task.
async fn asked_to_end(shutdown: &mut watch::Receiver<Option<Duration>>) -> Duration {
    // The reference into the channel must not live across the wait.
    let budget = shutdown.wait_for(Option::is_some).await.ok().and_then(|budget| *budget);
    match budget {
        Some(budget) => budget,
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, crate::OutboxError> + Send + 'static,
    action: &'static str,
) -> Result<T, Error> {
    match spawn_blocking(call).await {
        Ok(result) => result.map_err(|source| Error::Outbox { action, source }),
        Err(panicked) => Err(Error::Outbox { action, source: Box::new(panicked) }),
    }
}
