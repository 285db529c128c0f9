//! The engine threads' end of the queue: what each does next.

use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use super::sequences::Sequences;
use super::{Filling, Instance, Phase, Queue, State, Taken, Ticket};
use crate::batch::{Forming, Limits, Waiting, form};

/// What there is for a thread.
#[derive(Debug)]
pub(super) enum Polled {
    Ready(Taken),
    /// A batch that may grow until then.
    Fill {
        until: Instant,
    },
    Idle,
}

impl Queue {
    /// Blocks until there is something for the engine thread; a batch is put into `batch`.
    pub(super) fn take(&self, instance: &mut Instance, batch: &mut Vec<Ticket>) -> Taken {
        let mut dead = Vec::new();
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let polled = self.poll(&mut state, instance, now, batch, &mut dead);
            if let Polled::Ready(taken) = polled {
                let wake = self.wakes(&mut state);
                let ends = state.phase == Phase::Stopping && state.levels.is_empty();
                drop(state);
                self.notify(wake);
                if ends {
                    self.notify_all();
                }
                self.drop_dead(dead, now);
                return taken;
            }
            if !dead.is_empty() {
                drop(state);
                self.drop_dead(std::mem::take(&mut dead), now);
                state = self.lock();
                continue;
            }
            state = match polled {
                Polled::Fill { until } => {
                    let instance = *instance;
                    state.forming = Some(Filling { instance, until });
                    let left = until.saturating_duration_since(now);
                    let waited = self.fill.wait_timeout(state, left);
                    let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    state.forming = state.forming.filter(|filling| filling.instance != instance);
                    state
                }
                Polled::Idle | Polled::Ready(_) => self.sleep(state, now),
            };
        }
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let expiry = state.sequences.as_ref().and_then(Sequences::next_expiry).filter(|_| !state.ticking);
        state.sleeping += 1;
        let mut state = match expiry {
            Some(expiry) => {
                state.ticking = true;
                let waited = self.wake.wait_timeout(state, expiry.saturating_duration_since(now));
                let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.ticking = false;
                state
            }
            None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.sleeping -= 1;
        state.waking = state.waking.saturating_sub(1);
        state
    }

    /// What there is for the engine thread at `now`; a batch is put into `batch`, what nobody waits for into `dead`.
    pub(super) fn poll(
        &self,
        state: &mut State,
        instance: &mut Instance,
        now: Instant,
        batch: &mut Vec<Ticket>,
        dead: &mut Vec<Ticket>,
    ) -> Polled {
        if instance.generation < state.generation {
            instance.generation = state.generation;
            return Polled::Ready(state.better.pop_front().map_or(Taken::Stop, Taken::Better));
        }
        if let Some(sequences) = &mut state.sequences {
            self.expire(sequences, now);
            if let Some(members) = sequences.closing() {
                return Polled::Ready(Taken::Close(members));
            }
        }
        state.levels.clear(now, self.bounds.max_rows.max(1), |ticket| self.is_vain(ticket, now), dead);
        let count = match state.form(&self.limits(), now) {
            Forming::Take(count) => count,
            // Nobody can join a queue that is closed, so waiting would be for nothing.
            Forming::WaitUntil(_) if state.phase != Phase::Open => usize::MAX,
            // One thread at a time waits for members: what fits into one batch need not keep two.
            Forming::WaitUntil(_) if state.forming.is_some() => return Polled::Idle,
            Forming::WaitUntil(until) => return Polled::Fill { until },
            Forming::Empty if state.phase == Phase::Stopping && state.levels.is_empty() => {
                return Polled::Ready(Taken::Stop);
            }
            Forming::Empty => return Polled::Idle,
        };
        state.levels.take(count, batch);
        let number = state.taken;
        state.taken += 1;
        self.pace.began(instance.index, self.size(batch), now);
        Polled::Ready(Taken::Batch { at: now, number })
    }

    pub(super) fn expire(&self, sequences: &mut Sequences, now: Instant) {
        let expired = sequences.expire(now);
        if expired > 0 {
            self.stats.sequences(|counts| counts.expired += expired);
        }
    }

    /// Nobody waits for it, or it would be late for sure.
    fn is_vain(&self, ticket: &Ticket, now: Instant) -> bool {
        ticket.is_dead(now)
            || ticket.deadline.is_some_and(|deadline| {
                // A part of what it costs, for a thread that woke a little late is no reason to fail it.
                let least = self.pace.cost(ticket.rows) / 4 * 3;
                deadline.saturating_duration_since(now) <= least && !self.pace.is_stale(now)
            })
    }

    /// Rows of a batch, as its cost is learned.
    pub(super) fn size(&self, batch: &[Ticket]) -> usize {
        if self.bounds.max_rows == 0 { 1 } else { batch.iter().map(|ticket| ticket.rows).sum() }
    }

    pub(super) fn limits(&self) -> Limits<'_> {
        Limits {
            max_rows: self.bounds.max_rows,
            preferred: &self.bounds.preferred,
            delay: self.bounds.delay,
            compute: self.pace.cost(self.bounds.max_rows),
        }
    }
}

impl State {
    pub(super) fn form(&self, limits: &Limits<'_>, now: Instant) -> Forming {
        let first = self.levels.iter().next();
        let waiting = |ticket: &Ticket| Waiting {
            rows: ticket.rows,
            arrived: ticket.arrived,
            deadline: ticket.deadline.or(ticket.patience),
            joins: first.is_some_and(|first| ticket.joins(first)),
        };
        form(self.levels.iter().map(waiting), limits, now)
    }
}
