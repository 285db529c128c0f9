//! What becomes of the queue when its engines are lost, and when there are new ones.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use wire::Error;

use super::{Phase, Queue, Ticket};
use crate::admit::retry_after;

impl Queue {
    /// Which engines serve now: those of an older generation were lost or replaced.
    pub(crate) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Engines of `generation` can run nothing more: all threads end, and what is queued waits for new engines.
    /// Whether this was not known before. A version that takes no more requests gets none, so what it has is failed.
    pub(crate) fn lose(&self, generation: u64, reason: &str) -> bool {
        let mut state = self.lock();
        if state.generation != generation || state.phase.is_lost() {
            return false;
        }
        // Nobody changes to an engine that is not there: the thread ends.
        state.generation += 1;
        let better = std::mem::take(&mut state.better);
        let fault = reason.to_owned();
        let ends = state.phase != Phase::Open;
        match state.phase {
            Phase::Open => state.phase = Phase::Reloading(fault),
            Phase::Draining => {
                state.phase = Phase::Lost { fault, trouble: "it takes no more requests".to_owned() }
            }
            _ => {}
        }
        drop(state);
        drop(better);
        self.notify_all();
        if ends {
            self.fail_queued(|| self.unserved());
        }
        !ends
    }

    /// Puts what was in a lost engine to the head of its line, in its order.
    pub(super) fn requeue(&self, tickets: Vec<Ticket>) {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Open | Phase::Reloading(_)) {
            drop(state);
            let now = Instant::now();
            return tickets.into_iter().for_each(|ticket| self.fail(ticket, self.unserved(), now));
        }
        for ticket in tickets.into_iter().rev() {
            state.levels.enter(&ticket);
            state.levels.push_front(ticket);
        }
        let wake = self.wakes(&mut state);
        drop(state);
        self.notify(wake);
    }

    /// There will be no new engines soon, because of `trouble`: fails what waits for them, and refuses what comes.
    pub(crate) fn give_up(&self, trouble: &str) {
        let mut state = self.lock();
        let (Phase::Reloading(fault) | Phase::Lost { fault, .. }) = &state.phase else { return };
        state.phase = Phase::Lost { fault: fault.clone(), trouble: trouble.to_owned() };
        drop(state);
        self.fail_queued(|| self.unserved());
    }

    /// There are new engines: `instances` threads of this generation may come and take what waits. `false` when the
    /// version takes no more requests, or never lost its engines.
    pub(crate) fn resume(&self, instances: usize) -> bool {
        let mut state = self.lock();
        if !state.phase.is_lost() {
            return false;
        }
        state.phase = Phase::Open;
        self.instances.fetch_add(instances, Ordering::Relaxed);
        true
    }

    pub(super) fn unserved(&self) -> Error {
        let text = format!("model '{}' lost its engine before the request could run", self.model);
        Error::unavailable(text, retry_after(Duration::ZERO))
    }
}
