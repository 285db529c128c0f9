use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Instant;

use engine::{Correlation, MemberId, Step, Tensor};
use wire::{RequestId, SequenceId};

use crate::admit::Reservation;
use crate::reply;

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
    /// When it goes behind the others of its level; `None` once it did.
    pub(crate) patience: Option<Instant>,
    /// An index of the queue's levels.
    pub(crate) level: usize,
    /// For models that keep state.
    pub(crate) place: Option<Place>,
    /// It was in an engine that was lost, perhaps by its fault: it runs once more, alone.
    pub(crate) is_suspect: bool,
    /// Whether the residency decision lets its counts leave the site.
    pub(crate) exportable: bool,
    /// The body's part of the byte budget, given back when the ticket ends.
    pub(crate) room: Reservation,
    pub(crate) reply: reply::Sender,
}

/// A request's place in its sequence.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: Arc<Key>,
    /// Given by the queue with the place.
    pub(crate) member: MemberId,
    pub(crate) start: bool,
    pub(crate) end: bool,
}

/// Which sequence: those of different tenants are different, whatever their ids.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) tenant: String,
    pub(crate) id: SequenceId,
}

impl Place {
    pub(super) fn step(&self) -> Step {
        let correlation = match &self.key.id {
            SequenceId::Number(id) => Correlation::Number(*id),
            SequenceId::Text(id) => Correlation::Text(Arc::from(id.as_str())),
        };
        Step { start: self.start, end: self.end, correlation }
    }
}

impl Ticket {
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Nobody waits for it any more.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.reply.is_closed() || self.is_expired(now)
    }

    pub(super) fn joins(&self, first: &Ticket) -> bool {
        let innocent = !self.is_suspect && !first.is_suspect;
        innocent
            && self.inputs.iter().zip(&first.inputs).all(|(one, other)| {
                one.datatype() == other.datatype() && one.shape().get(1..) == other.shape().get(1..)
            })
    }
}

/// Clients that went away before their tickets of one level ended. Their places are free, although the tickets
/// still lie in the queue: who looks for a place need not look for them.
#[derive(Debug, Default)]
pub(crate) struct Gone(AtomicIsize);

impl Gone {
    /// The client, or its deadline, was first.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Its ticket ended, too.
    pub(super) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The end of a ticket may be seen before the end of its client.
    pub(super) fn count(&self) -> usize {
        usize::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }
}
