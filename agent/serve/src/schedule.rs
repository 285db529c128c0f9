//! One bounded queue per loaded version, and the engine thread's end of it ([`ModelFeed`]).
//!
//! No task stands between the two: the engine's thread forms its own batch when it becomes free, under the
//! queue's lock (`docs/decisions/0004-batches-are-formed-by-the-engine-thread.md`). A ticket ends in exactly
//! one place, [`Queue::end`], after its outcome was recorded: a client that has its reply finds it counted.

mod feed;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, Tensor};
use tokio::sync::Notify;
use wire::{Error, Part, RequestId};

use crate::admit::{Reservation, retry_after};
use crate::batch::{Forming, Limits, Waiting, form};
use crate::reply::{self, deadline_exceeded};
use crate::stats::{Reason, Stats};

pub(crate) use feed::{ModelFeed, OnLost};

/// An accepted request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: RequestId,
    /// In signature order; empty once the ticket's batch was formed.
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) rows: usize,
    /// Wanted outputs by index, empty for all.
    pub(crate) outputs: Vec<usize>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Option<Instant>,
    /// Whether the residency decision lets its counts leave the site.
    pub(crate) exportable: bool,
    /// The body's part of the byte budget, given back when the ticket ends.
    pub(crate) room: Reservation,
    pub(crate) reply: reply::Sender,
}

impl Ticket {
    fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Nobody waits for it any more.
    fn is_dead(&self, now: Instant) -> bool {
        self.reply.is_closed() || self.is_expired(now)
    }

    fn joins(&self, first: &Ticket) -> bool {
        self.inputs.iter().zip(&first.inputs).all(|(one, other)| {
            one.datatype() == other.datatype() && one.shape().get(1..) == other.shape().get(1..)
        })
    }
}

/// How a queue is bounded and how its batches are formed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Requests that may wait.
    pub(crate) limit: usize,
    pub(crate) max_rows: usize,
    pub(crate) delay: Duration,
}

/// The bounded queue of one loaded version.
#[derive(Debug)]
pub(crate) struct Queue {
    model: Arc<str>,
    bounds: Bounds,
    stats: Arc<Stats>,
    state: Mutex<State>,
    wake: Condvar,
    /// Accepted and not ended: queued, or in the engine.
    pending: AtomicUsize,
    /// Moving averages of what one request and one batch cost the engine; 0 before the first.
    request_ns: AtomicU64,
    batch_ns: AtomicU64,
    /// Someone waits in [`Queue::finish`].
    closing: AtomicBool,
    idle: Notify,
}

#[derive(Debug)]
struct State {
    tickets: VecDeque<Ticket>,
    phase: Phase,
    /// An engine to change to, before the next batch.
    better: Option<Box<dyn Engine>>,
    asleep: Asleep,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// The device or the thread is gone, and why.
    Lost(String),
    /// The thread ends when the queue is empty.
    Stopping,
}

/// What the engine thread waits for, so that it is woken only when there is something to do.
#[derive(Debug)]
enum Asleep {
    No,
    ForTicket,
    ForMore { until: Instant },
}

/// What [`Queue::take`] found.
#[derive(Debug)]
enum Taken {
    Batch { at: Instant },
    Better(Box<dyn Engine>),
    Stop,
}

impl Queue {
    pub(crate) fn new(model: Arc<str>, bounds: Bounds, stats: Arc<Stats>) -> Self {
        let tickets = VecDeque::with_capacity(bounds.limit.min(1024));
        let state = State { tickets, phase: Phase::Open, better: None, asleep: Asleep::No };
        Self {
            model,
            bounds,
            stats,
            state: Mutex::new(state),
            wake: Condvar::new(),
            pending: AtomicUsize::new(0),
            request_ns: AtomicU64::new(0),
            batch_ns: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    /// Gives the ticket a place, or says at once why there is none: no room, no time, or a version that takes
    /// no more requests.
    pub(crate) fn push(&self, ticket: Ticket) -> Result<(), Error> {
        let mut dead = Vec::new();
        let outcome = self.push_locked(ticket, &mut dead);
        self.drop_dead(dead);
        if matches!(outcome, Ok(true)) {
            self.wake.notify_one();
        }
        outcome.map(|_| ())
    }

    /// Whether the engine thread must be woken.
    fn push_locked(&self, ticket: Ticket, dead: &mut Vec<Ticket>) -> Result<bool, Error> {
        let mut state = self.lock();
        if let Some(error) = self.closed(&state.phase) {
            return Err(error);
        }
        self.has_time(&ticket)?;
        if state.tickets.len() >= self.bounds.limit {
            // The places of clients that went away are free, even before the engine comes by.
            state.remove_dead(ticket.arrived, usize::MAX, dead);
            if state.tickets.len() >= self.bounds.limit {
                return Err(self.full());
            }
        }
        self.pending.fetch_add(1, Ordering::SeqCst);
        state.tickets.push_back(ticket);
        let wake = match state.asleep {
            Asleep::No => false,
            Asleep::ForTicket => true,
            Asleep::ForMore { until } => match state.form(&self.limits(), Instant::now()) {
                Forming::WaitUntil(time) => time < until,
                Forming::Take(_) | Forming::Empty => true,
            },
        };
        if wake {
            state.asleep = Asleep::No;
        }
        Ok(wake)
    }

    fn has_time(&self, ticket: &Ticket) -> Result<(), Error> {
        let Some(deadline) = ticket.deadline else { return Ok(()) };
        let wait = self.wait();
        if deadline.saturating_duration_since(ticket.arrived) > wait {
            return Ok(());
        }
        let mut error = deadline_exceeded();
        error.message = format!(
            "{}: {} requests for model '{}' are before it and take about {} ms",
            error.message,
            self.pending(),
            self.model,
            wait.as_millis()
        );
        error.retry_after = Some(retry_after(wait));
        Err(error)
    }

    fn full(&self) -> Error {
        let text =
            format!("the queue of model '{}' is full: {} requests wait", self.model, self.bounds.limit);
        Error::unavailable(text, retry_after(self.wait()))
    }

    /// `None` while it takes requests.
    fn closed(&self, phase: &Phase) -> Option<Error> {
        let why = match phase {
            Phase::Open => return None,
            Phase::Draining | Phase::Stopping => "is being unloaded",
            Phase::Lost(_) => "lost its device and is being loaded again",
        };
        Some(Error::unavailable(format!("model '{}' {why}", self.model), retry_after(Duration::ZERO)))
    }

    /// How long what is pending will keep the engine busy, by what requests have cost so far.
    fn wait(&self) -> Duration {
        let each = self.request_ns.load(Ordering::Relaxed);
        Duration::from_nanos(each.saturating_mul(u64::try_from(self.pending()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase.clone()
    }

    #[cfg(test)]
    pub(crate) fn waits_for_more(&self) -> bool {
        matches!(self.lock().asleep, Asleep::ForMore { .. })
    }

    /// Puts a better engine in place before the next batch.
    pub(crate) fn replace(&self, better: Box<dyn Engine>) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open | Phase::Draining) {
            state.better = Some(better);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Takes no more requests; what is queued still runs.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
            drop(state);
            // A batch that waits for more members gets none any more.
            self.wake.notify_one();
        }
    }

    /// The engine thread ends when it has run what is queued.
    pub(crate) fn stop(&self) {
        self.lock().phase = Phase::Stopping;
        self.wake.notify_one();
    }

    /// Waits until nothing is pending, then returns 0; or returns what is pending at `deadline`, after the
    /// requests that did not start were failed.
    pub(crate) async fn finish(&self, deadline: Instant) -> usize {
        self.closing.store(true, Ordering::SeqCst);
        let idle = async {
            while self.pending.load(Ordering::SeqCst) > 0 {
                self.idle.notified().await;
            }
        };
        if tokio::time::timeout_at(deadline.into(), idle).await.is_ok() {
            return 0;
        }
        let left = self.pending();
        self.fail_queued(|| {
            let text = format!("model '{}' was unloaded before the request could run", self.model);
            Error::unavailable(text, retry_after(Duration::ZERO))
        });
        left
    }

    /// The engine cannot run anything more: fails what is queued.
    fn lose(&self, reason: &str) {
        {
            let mut state = self.lock();
            if state.phase != Phase::Stopping {
                state.phase = Phase::Lost(reason.to_owned());
            }
        }
        self.fail_queued(|| {
            let text = format!("model '{}' lost its engine", self.model);
            Error::unavailable(text, retry_after(Duration::ZERO))
        });
    }

    fn fail_queued(&self, error: impl Fn() -> Error) {
        let queued = std::mem::take(&mut self.lock().tickets);
        for ticket in queued {
            self.fail(ticket, error());
        }
    }

    /// Blocks until there is something for the engine thread; a batch is put into `batch`.
    fn take(&self, batch: &mut Vec<Ticket>) -> Taken {
        let mut state = self.lock();
        loop {
            if let Some(better) = state.better.take() {
                return Taken::Better(better);
            }
            let now = Instant::now();
            let mut dead = Vec::new();
            state.remove_dead(now, self.bounds.max_rows.max(1), &mut dead);
            if !dead.is_empty() {
                drop(state);
                self.drop_dead(dead);
                state = self.lock();
                continue;
            }
            match state.form(&self.limits(), now) {
                Forming::Take(count) => {
                    batch.extend(state.tickets.drain(..count));
                    return Taken::Batch { at: now };
                }
                // Nobody can join a queue that is closed, so waiting would be for nothing.
                Forming::WaitUntil(_) if state.phase != Phase::Open => {
                    batch.extend(state.tickets.drain(..));
                    return Taken::Batch { at: now };
                }
                Forming::WaitUntil(until) => {
                    state.asleep = Asleep::ForMore { until };
                    let waited = self.wake.wait_timeout(state, until.saturating_duration_since(now));
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Forming::Empty if state.phase == Phase::Stopping => return Taken::Stop,
                Forming::Empty => {
                    state.asleep = Asleep::ForTicket;
                    state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
            state.asleep = Asleep::No;
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            max_rows: self.bounds.max_rows,
            delay: self.bounds.delay,
            compute: Duration::from_nanos(self.batch_ns.load(Ordering::Relaxed)),
        }
    }

    /// Learns what a batch of `requests` cost. Only the engine thread calls it.
    fn learn(&self, cost: Duration, requests: usize) {
        let cost = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
        let each = cost / u64::try_from(requests.max(1)).unwrap_or(1);
        for (average, sample) in [(&self.batch_ns, cost), (&self.request_ns, each)] {
            let old = average.load(Ordering::Relaxed);
            let new = if old == 0 { sample } else { old - old / 8 + sample / 8 };
            average.store(new.max(1), Ordering::Relaxed);
        }
    }

    fn drop_dead(&self, dead: Vec<Ticket>) {
        for ticket in dead {
            self.fail(ticket, deadline_exceeded());
        }
    }

    /// Ends a ticket without a result. Where the client is gone or too late, that is the reason that counts.
    fn fail(&self, ticket: Ticket, error: Error) {
        let now = Instant::now();
        let reason = if ticket.is_expired(now) {
            Reason::Deadline
        } else if ticket.reply.is_closed() {
            Reason::Canceled
        } else {
            Reason::of(error.code)
        };
        self.stats.failed(reason, now.saturating_duration_since(ticket.arrived), ticket.exportable);
        self.end(ticket, Err(error));
    }

    /// The one place where a ticket ends. Its outcome is recorded already.
    fn end(&self, ticket: Ticket, result: Result<Part, Error>) {
        let Ticket { room, reply, .. } = ticket;
        drop(room);
        if self.pending.fetch_sub(1, Ordering::SeqCst) == 1 && self.closing.load(Ordering::SeqCst) {
            self.idle.notify_one();
        }
        reply.send(result);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn form(&self, limits: &Limits, now: Instant) -> Forming {
        let first = self.tickets.front();
        let waiting = |ticket: &Ticket| Waiting {
            rows: ticket.rows,
            arrived: ticket.arrived,
            deadline: ticket.deadline,
            joins: first.is_some_and(|first| ticket.joins(first)),
        };
        form(self.tickets.iter().map(waiting), limits, now)
    }

    /// Moves the dead among the first `rows` living rows to `dead`.
    fn remove_dead(&mut self, now: Instant, rows: usize, dead: &mut Vec<Ticket>) {
        let (mut index, mut living) = (0, 0);
        while living < rows {
            let Some(ticket) = self.tickets.get(index) else { return };
            if ticket.is_dead(now) {
                dead.extend(self.tickets.remove(index));
            } else {
                living += ticket.rows;
                index += 1;
            }
        }
    }
}
