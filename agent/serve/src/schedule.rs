//! One bounded queue per loaded version, and the engine threads' end of it ([`ModelFeed`]).
//!
//! No task stands between the two: an engine's thread forms its own batch when it becomes free, under the
//! queue's lock (`docs/decisions/0004-batches-are-formed-by-the-engine-thread.md`). A version has as many threads as
//! instances; at most one of them waits for its batch to fill, and one is woken only when there is something that
//! nobody is on the way to. A ticket ends in exactly one place, [`Queue::end`], after its outcome was recorded: a
//! client that has its reply finds it counted.
//!
//! A queue outlives its engines: when they are lost, their threads end, what they were running goes back to the head
//! of its line, and whatever waits goes on with the engines that take their place ([`Queue::resume`]).
//!
//! What a push costs does not depend on what waits: places of clients that went away are counted, not searched.

pub(crate) mod bounds;
mod feed;
mod levels;
mod loss;
mod order;
mod pace;
mod push;
mod sequences;
mod take;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::{Engine, MemberId};
use tokio::sync::Notify;
use wire::{Error, Part};

use crate::admit::retry_after;
use crate::reply::deadline_exceeded;
use crate::stats::{Now, Reason, Stats};

pub(crate) use bounds::{Bounds, Sequencing, Terms};
pub(crate) use feed::{Lost, ModelFeed, OnLost};
pub(crate) use ticket::{Gone, Key, Place, Ticket};

use feed::Outcome;
use levels::Levels;
use order::Order;
use pace::Pace;
use sequences::{Fate, Sequences};

/// The bounded queue of one loaded version.
#[derive(Debug)]
pub(crate) struct Queue {
    model: Arc<str>,
    bounds: Bounds,
    stats: Arc<Stats>,
    state: Mutex<State>,
    /// By level.
    gone: Box<[Arc<Gone>]>,
    /// Threads without work wait here.
    wake: Condvar,
    /// The thread waits here whose batch may still grow.
    fill: Condvar,
    /// Accepted and not ended: queued, or in an engine.
    pending: AtomicUsize,
    instances: AtomicUsize,
    pace: Pace,
    /// For `preserve_ordering`.
    order: Option<Order<Vec<Outcome>>>,
    /// Someone waits in [`Queue::finish`].
    closing: AtomicBool,
    idle: Notify,
}

#[derive(Debug)]
struct State {
    levels: Levels,
    sequences: Option<Sequences>,
    phase: Phase,
    /// Engines to change to, before the next batch: one per thread that goes on.
    better: VecDeque<Box<dyn Engine>>,
    /// How often there were better engines, or none any more.
    generation: u64,
    /// Batches taken so far.
    taken: u64,
    forming: Option<Filling>,
    /// Threads that wait for work, and how many of them were woken and are on their way.
    sleeping: usize,
    waking: usize,
    /// One of them looks after idle sequences.
    ticking: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// The engines are gone, and why; new ones come at once. What is queued waits for them, and what comes.
    Reloading(String),
    /// The engines are gone, and nobody knows when there will be new ones: takes nothing.
    Lost {
        fault: String,
        /// Why there are no new ones yet.
        trouble: String,
    },
    /// The threads end when the queue is empty.
    Stopping,
}

impl Phase {
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Phase::Reloading(_) | Phase::Lost { .. })
    }
}

/// One engine thread of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instance {
    index: usize,
    generation: u64,
}

/// A thread that waits for its batch to fill.
#[derive(Debug, Clone, Copy)]
struct Filling {
    instance: Instance,
    until: Instant,
}

/// What [`Queue::take`] found.
#[derive(Debug)]
enum Taken {
    Batch { at: Instant, number: u64 },
    Close(Vec<MemberId>),
    Better(Box<dyn Engine>),
    Stop,
}

/// Whom a change of the queue wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Nobody,
    Idle,
    Filling,
}

impl Queue {
    pub(crate) fn new(model: Arc<str>, bounds: Bounds, instances: usize, stats: Arc<Stats>) -> Self {
        let gone: Box<[_]> = bounds.levels.iter().map(|_| Arc::<Gone>::default()).collect();
        let state = State {
            levels: Levels::new(&bounds.levels, &gone, bounds.limit),
            sequences: bounds.sequencing.map(Sequences::new),
            phase: Phase::Open,
            better: VecDeque::new(),
            generation: 0,
            taken: 0,
            forming: None,
            sleeping: 0,
            waking: 0,
            ticking: false,
        };
        Self {
            model,
            stats,
            state: Mutex::new(state),
            gone,
            wake: Condvar::new(),
            fill: Condvar::new(),
            pending: AtomicUsize::new(0),
            instances: AtomicUsize::new(instances),
            pace: Pace::new(instances, Instant::now()),
            order: bounds.preserve_ordering.then(Order::new),
            bounds,
            closing: AtomicBool::new(false),
            idle: Notify::new(),
        }
    }

    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase.clone()
    }

    /// What the statistics show of this moment.
    pub(crate) fn now(&self) -> Now {
        let state = self.lock();
        Now {
            pending: self.pending(),
            levels: state.levels.each(),
            sequences: state.sequences.as_ref().map(Sequences::live),
            instances: self.instances.load(Ordering::Relaxed),
        }
    }

    #[cfg(test)]
    pub(crate) fn waits_for_more(&self) -> bool {
        self.lock().forming.is_some()
    }

    /// Puts better engines in place before the next batches. Threads for which there is none end.
    pub(crate) fn replace(&self, better: Vec<Box<dyn Engine>>) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Open | Phase::Draining) && !better.is_empty() {
            state.better = better.into();
            state.generation += 1;
            drop(state);
            self.notify_all();
        }
    }

    /// Takes no more requests; what is queued still runs.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Draining | Phase::Stopping) {
            return;
        }
        let was = std::mem::replace(&mut state.phase, Phase::Draining);
        drop(state);
        // A batch that waits for more members gets none any more.
        self.fill.notify_all();
        if was.is_lost() {
            self.fail_queued(|| self.unserved());
        }
    }

    /// The engine threads end when they have run what is queued.
    pub(crate) fn stop(&self) {
        let was = std::mem::replace(&mut self.lock().phase, Phase::Stopping);
        self.notify_all();
        if was.is_lost() {
            self.fail_queued(|| self.unserved());
        }
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

    fn fail_queued(&self, error: impl Fn() -> Error) {
        let queued = {
            let State { levels, sequences, .. } = &mut *self.lock();
            let mut queued = levels.empty();
            let held = sequences.as_mut().map(Sequences::empty).unwrap_or_default();
            held.iter().for_each(|ticket| levels.leave(ticket));
            queued.extend(held);
            queued
        };
        let now = Instant::now();
        for ticket in queued {
            self.fail(ticket, error(), now);
        }
    }

    fn drop_dead(&self, dead: Vec<Ticket>, now: Instant) {
        for ticket in dead {
            self.fail(ticket, deadline_exceeded(), now);
        }
    }

    /// Ends a ticket without a result. Where the client is gone or too late, that is the reason that counts.
    fn fail(&self, ticket: Ticket, error: Error, now: Instant) {
        let reason = if ticket.is_expired(now) {
            Reason::Deadline
        } else if ticket.reply.is_closed() {
            Reason::Canceled
        } else {
            Reason::of(error.code)
        };
        let waited = now.saturating_duration_since(ticket.arrived);
        self.stats.failed(reason, waited, ticket.exportable, ticket.level);
        self.end(ticket, Err(error));
    }

    /// The one place where a ticket ends. Its outcome is recorded already.
    fn end(&self, ticket: Ticket, result: Result<Part, Error>) {
        let Ticket { room, reply, place, level, .. } = ticket;
        if let Some(place) = place {
            self.advance(&place, result.is_ok());
        }
        drop(room);
        if self.pending.fetch_sub(1, Ordering::SeqCst) == 1 && self.closing.load(Ordering::SeqCst) {
            self.idle.notify_one();
        }
        if let (false, Some(gone)) = (reply.send(result), self.gone.get(level)) {
            gone.remove();
        }
    }

    /// The next request of the sequence comes into its line.
    fn advance(&self, place: &Place, result: bool) {
        let now = Instant::now();
        let (lost, wake) = {
            let mut state = self.lock();
            let State { levels, sequences: Some(sequences), .. } = &mut *state else { return };
            let advanced = sequences.advance(place, result, now);
            advanced.lost.iter().for_each(|ticket| levels.leave(ticket));
            match advanced.fate {
                Fate::Continues => {}
                Fate::Ended => self.stats.sequences(|counts| counts.ended += 1),
                Fate::Lost => self.stats.sequences(|counts| counts.lost += 1),
            }
            let wake = match advanced.next {
                Some(next) => {
                    levels.push(next);
                    self.wakes(&mut state)
                }
                // Its state is to be freed.
                None if advanced.fate == Fate::Lost && state.waking < state.sleeping => {
                    state.waking += 1;
                    Wake::Idle
                }
                None => Wake::Nobody,
            };
            (advanced.lost, wake)
        };
        self.notify(wake);
        for ticket in lost {
            let text = format!(
                "an earlier request of the sequence to model '{}' got no result: begin again (sequence_start)",
                self.model
            );
            self.fail(Ticket { place: None, ..ticket }, Error::invalid(text), now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
