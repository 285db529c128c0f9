//! The queues of one version's priority levels. Pure: time is an argument.
//!
//! Requests are taken level by level, the highest first, as Triton does: a batch may span levels, and a request of
//! a lower one runs only when it fits behind all of the higher ones. Nothing keeps a low level from starving while
//! higher ones fill every batch; a level's timeout is the answer to that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::bounds::QueuePolicy;
use super::ticket::{Gone, Ticket};

#[derive(Debug)]
pub(super) struct Levels {
    levels: Vec<Level>,
    /// Tickets of all levels, those that wait for their turn in a sequence included.
    waiting: usize,
}

#[derive(Debug)]
struct Level {
    limit: Option<usize>,
    line: VecDeque<Ticket>,
    /// Those that waited for their timeout and may be late: behind the line.
    late: VecDeque<Ticket>,
    /// Accepted and not taken, wherever they wait.
    waiting: usize,
    rows: usize,
    gone: Arc<Gone>,
}

/// What is before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ahead {
    pub(super) requests: usize,
    pub(super) rows: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) waiting: usize,
}

impl Levels {
    pub(super) fn new(policies: &[QueuePolicy], gone: &[Arc<Gone>], limit: usize) -> Self {
        let level = |(policy, gone): (&QueuePolicy, &Arc<Gone>)| Level {
            limit: policy.max_queue_size,
            line: VecDeque::with_capacity(policy.max_queue_size.unwrap_or(limit).min(limit).min(1024)),
            late: VecDeque::new(),
            waiting: 0,
            rows: 0,
            gone: Arc::clone(gone),
        };
        Self { levels: policies.iter().zip(gone).map(level).collect(), waiting: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Those that a thread could take now.
    pub(super) fn ready(&self) -> usize {
        self.levels.iter().map(|level| level.line.len() + level.late.len()).sum()
    }

    /// By level, what waits in it.
    pub(super) fn each(&self) -> Vec<usize> {
        self.levels.iter().map(|level| level.waiting).collect()
    }

    /// Whether one more may wait at `level`. Those whose clients went away take no place; nothing is searched.
    pub(super) fn room(&self, level: usize, limit: usize) -> Result<(), Full> {
        if self.waiting >= limit {
            let gone: usize = self.levels.iter().map(|level| level.gone.count()).sum();
            // Twice is too much whoever went away: some of them may wait for their turn in a sequence.
            if self.waiting.saturating_sub(gone) >= limit || self.waiting / 2 >= limit {
                return Err(Full { waiting: limit });
            }
        }
        let Some(level) = self.levels.get(level) else { return Ok(()) };
        match level.limit {
            Some(limit) if level.waiting.saturating_sub(level.gone.count()) >= limit => {
                Err(Full { waiting: limit })
            }
            _ => Ok(()),
        }
    }

    /// Whether most of what waits waits for nobody. Then [`Levels::sweep`] costs less than what it finds was worth
    /// when it came.
    pub(super) fn is_littered(&self) -> bool {
        let gone: usize = self.levels.iter().map(|level| level.gone.count()).sum();
        gone > 0 && gone * 2 >= self.waiting
    }

    pub(super) fn ahead(&self, level: usize) -> Ahead {
        let before = self.levels.iter().take(level + 1);
        before.fold(Ahead { requests: 0, rows: 0 }, |sum, level| Ahead {
            requests: sum.requests + level.waiting,
            rows: sum.rows + level.rows,
        })
    }

    /// Counts a ticket that has a place.
    pub(super) fn enter(&mut self, ticket: &Ticket) {
        self.waiting += 1;
        if let Some(level) = self.levels.get_mut(ticket.level) {
            level.waiting += 1;
            level.rows += ticket.rows;
        }
    }

    /// Counts one that was taken or dropped.
    pub(super) fn leave(&mut self, ticket: &Ticket) {
        self.waiting = self.waiting.saturating_sub(1);
        if let Some(level) = self.levels.get_mut(ticket.level) {
            level.waiting = level.waiting.saturating_sub(1);
            level.rows = level.rows.saturating_sub(ticket.rows);
        }
    }

    /// Puts a ticket that entered into its line.
    pub(super) fn push(&mut self, ticket: Ticket) {
        if let Some(level) = self.levels.get_mut(ticket.level) {
            level.line.push_back(ticket);
        }
    }

    /// Puts a ticket that entered before all others of its level.
    pub(super) fn push_front(&mut self, ticket: Ticket) {
        if let Some(level) = self.levels.get_mut(ticket.level) {
            level.line.push_front(ticket);
        }
    }

    /// In the order in which they are taken.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Ticket> {
        self.levels.iter().flat_map(|level| level.line.iter().chain(&level.late))
    }

    /// Moves the first `count` to `batch`.
    pub(super) fn take(&mut self, count: usize, batch: &mut Vec<Ticket>) {
        let wanted = batch.len().saturating_add(count);
        for level in &mut self.levels {
            for line in [&mut level.line, &mut level.late] {
                let here = line.len().min(wanted - batch.len());
                let from = batch.len();
                batch.extend(line.drain(..here));
                let taken = batch.get(from..).unwrap_or_default();
                level.waiting -= taken.len();
                level.rows -= taken.iter().map(|ticket| ticket.rows).sum::<usize>();
                self.waiting -= taken.len();
            }
            if batch.len() == wanted {
                return;
            }
        }
    }

    /// Moves those that `is_dead` among the first `rows` living rows to `dead`, and those whose patience ended
    /// behind their line.
    pub(super) fn clear(
        &mut self,
        now: Instant,
        rows: usize,
        is_dead: impl Fn(&Ticket) -> bool,
        dead: &mut Vec<Ticket>,
    ) {
        let (first, mut living) = (dead.len(), 0);
        for Level { line, late, .. } in &mut self.levels {
            let mut index = 0;
            while living < rows {
                let Some(ticket) = line.get_mut(index) else { break };
                if is_dead(ticket) {
                    dead.extend(line.remove(index));
                } else if ticket.patience.is_some_and(|patience| patience <= now) {
                    ticket.patience = None;
                    late.extend(line.remove(index));
                } else {
                    living += ticket.rows;
                    index += 1;
                }
            }
            let mut index = 0;
            while living < rows {
                let Some(ticket) = late.get(index) else { break };
                if is_dead(ticket) {
                    dead.extend(late.remove(index));
                } else {
                    living += ticket.rows;
                    index += 1;
                }
            }
            if living >= rows {
                break;
            }
        }
        for ticket in dead.get(first..).unwrap_or_default() {
            self.waiting -= 1;
            if let Some(level) = self.levels.get_mut(ticket.level) {
                level.waiting -= 1;
                level.rows -= ticket.rows;
            }
        }
    }

    /// Everything that is in a line.
    pub(super) fn empty(&mut self) -> Vec<Ticket> {
        let mut all = Vec::with_capacity(self.waiting);
        self.take(usize::MAX, &mut all);
        all
    }
}
