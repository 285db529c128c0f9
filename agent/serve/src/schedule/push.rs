//! The clients' end of the queue: a place at once, or none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use wire::Error;

use super::levels::{Ahead, Full, Levels};
use super::sequences::Misplaced;
use super::{Filling, Gone, Phase, Queue, State, Ticket, Wake};
use crate::admit::retry_after;
use crate::batch::Forming;
use crate::reply::deadline_exceeded;

impl Queue {
    /// Gives the ticket a place, or says at once why there is none: no room, no time, a version that takes no more
    /// requests, or a sequence that is not live. The reply counts itself where it is told, should its client go away.
    pub(crate) fn push(&self, ticket: Ticket) -> Result<Arc<Gone>, Error> {
        let mut dead = Vec::new();
        let (level, now) = (ticket.level, ticket.arrived);
        let outcome = self.push_locked(ticket, &mut dead);
        self.drop_dead(dead, now);
        let wake = outcome.inspect_err(|_| self.stats.level_refused(level))?;
        self.notify(wake);
        Ok(self.gone.get(level).map(Arc::clone).unwrap_or_default())
    }

    fn push_locked(&self, mut ticket: Ticket, dead: &mut Vec<Ticket>) -> Result<Wake, Error> {
        let now = ticket.arrived;
        let mut state = self.lock();
        let State { levels, sequences, phase, .. } = &mut *state;
        if let Some(error) = self.closed(phase) {
            return Err(error);
        }
        self.has_time(levels, &ticket)?;
        if levels.is_littered() {
            levels.clear(now, usize::MAX, |ticket| ticket.is_dead(now), dead);
        }
        levels.room(ticket.level, self.bounds.limit).map_err(|full| self.full(levels, full))?;
        // What is done but has to wait for others holds its place.
        let most = self.bounds.limit.saturating_add(self.pace.instances() * self.bounds.max_rows.max(1));
        if self.order.is_some() && self.pending() >= most {
            return Err(self.full(levels, Full { waiting: self.bounds.limit }));
        }
        let turn = match (sequences, &mut ticket.place) {
            (Some(sequences), Some(place)) => {
                self.expire(sequences, now);
                let turn = sequences.enter(place, now).map_err(|why| self.misplaced(why))?;
                (!turn).then(|| (sequences, place.clone()))
            }
            _ => None,
        };
        self.pending.fetch_add(1, Ordering::SeqCst);
        levels.enter(&ticket);
        if let Some((sequences, place)) = turn {
            sequences.hold(&place, ticket);
            return Ok(Wake::Nobody);
        }
        levels.push(ticket);
        Ok(self.wakes(&mut state))
    }

    /// Whether what waits in the lines now needs a thread that is not on its way to it.
    pub(super) fn wakes(&self, state: &mut State) -> Wake {
        if let Some(Filling { until, .. }) = state.forming {
            return match state.form(&self.limits(), Instant::now()) {
                Forming::WaitUntil(time) if time >= until => Wake::Nobody,
                Forming::Empty => Wake::Nobody,
                Forming::WaitUntil(_) | Forming::Take(_) => {
                    state.forming = None;
                    Wake::Filling
                }
            };
        }
        // A thread that is on its way takes a whole batch, or one request where there are no batches.
        let ready = state.levels.ready();
        let enough = if self.bounds.max_rows == 0 { ready } else { ready.min(1) };
        if state.waking < state.sleeping.min(enough) {
            state.waking += 1;
            return Wake::Idle;
        }
        Wake::Nobody
    }

    pub(super) fn notify(&self, wake: Wake) {
        match wake {
            Wake::Nobody => {}
            Wake::Idle => self.wake.notify_one(),
            Wake::Filling => self.fill.notify_one(),
        }
    }

    pub(super) fn notify_all(&self) {
        self.wake.notify_all();
        self.fill.notify_all();
    }

    fn has_time(&self, levels: &Levels, ticket: &Ticket) -> Result<(), Error> {
        let Some(deadline) = ticket.deadline else { return Ok(()) };
        let now = ticket.arrived;
        let (wait, own) = self.expect(levels.ahead(ticket.level), ticket.rows, now);
        // What is at the limit when it is accepted is late as often as not, and was run for nothing then.
        if deadline.saturating_duration_since(now) > wait + wait / 8 + own {
            return Ok(());
        }
        if levels.is_empty() && deadline > now && self.pace.is_stale(now) {
            return Ok(());
        }
        let mut error = deadline_exceeded();
        error.message = format!(
            "{}: {} requests for model '{}' are before it; with them it takes about {} ms",
            error.message,
            self.pending(),
            self.model,
            (wait + own).as_millis()
        );
        error.retry_after = Some(retry_after(wait));
        Err(error)
    }

    /// How long a request that comes now waits behind `ahead`, and what its own batch then takes.
    fn expect(&self, ahead: Ahead, rows: usize, now: Instant) -> (Duration, Duration) {
        let max_rows = self.bounds.max_rows;
        let all = ahead.rows + rows.max(1);
        let (batches, own) = match (all - 1).checked_div(max_rows) {
            Some(before) => (before, all - before * max_rows),
            None => (ahead.requests, 1),
        };
        (self.pace.wait(batches, max_rows, now), self.pace.cost(own))
    }

    fn full(&self, levels: &Levels, full: Full) -> Error {
        let (wait, _) = self.expect(levels.ahead(self.bounds.levels.len()), 0, Instant::now());
        let text = format!("the queue of model '{}' is full: {} requests wait", self.model, full.waiting);
        Error::unavailable(text, retry_after(wait))
    }

    /// In Triton's words where it has some.
    fn misplaced(&self, why: Misplaced) -> Error {
        let model = &self.model;
        match why {
            Misplaced::NoState => Error::invalid(format!(
                "inference request for a sequence to model '{model}' must specify the START flag on the first request \
                 of the sequence: there is no state for it here, so begin again"
            )),
            Misplaced::TooMany { free_in } => {
                let text = format!("model '{model}' keeps as many sequences as it may");
                Error::unavailable(text, retry_after(free_in))
            }
        }
    }

    /// `None` while it takes requests.
    fn closed(&self, phase: &Phase) -> Option<Error> {
        let why = match phase {
            // Engines come at once: until then there are as many places as ever.
            Phase::Open | Phase::Reloading(_) => return None,
            Phase::Draining | Phase::Stopping => "is being unloaded",
            Phase::Lost { .. } => "lost its engine and is to be loaded again",
        };
        Some(Error::unavailable(format!("model '{}' {why}", self.model), retry_after(Duration::ZERO)))
    }
}
