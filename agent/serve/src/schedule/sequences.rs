//! Which sequences of one version are live, and whose turn it is in each. Pure: time is an argument.
//!
//! One request of a sequence is in the lines or in an engine at a time; those behind it are held here, in the order
//! in which they came, so no batch ever has two of them and no line is reordered. A sequence is live from a request
//! with `start` until the one with `end`, until it was idle for too long, or until one of its accepted requests
//! got no result: what would follow does not know that state, so it has to begin again. A request that was
//! refused, and so never accepted, changes nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::MemberId;

use super::bounds::Sequencing;
use super::ticket::{Key, Place, Ticket};

#[derive(Debug)]
pub(super) struct Sequences {
    bounds: Sequencing,
    live: HashMap<Arc<Key>, Sequence>,
    /// Those without a request, the longest idle first.
    idle: BTreeMap<(Instant, MemberId), Arc<Key>>,
    /// Their state is to be freed by an engine thread.
    closing: Vec<MemberId>,
    last: u64,
}

#[derive(Debug)]
struct Sequence {
    member: MemberId,
    /// `None` while a request of it waits or runs.
    idle_since: Option<Instant>,
    /// Behind the one that waits or runs.
    held: VecDeque<Ticket>,
    /// Its last accepted request ends it.
    ends: bool,
}

/// Why a request has no place in its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misplaced {
    /// It does not start one, and none is live.
    NoState,
    /// It starts one too many; when the next idle one ends.
    TooMany { free_in: Duration },
}

/// What the end of a request did to its sequence.
#[derive(Debug, Default)]
pub(super) struct Advanced {
    /// Whose turn it is now.
    pub(super) next: Option<Ticket>,
    /// Those behind a request without a result.
    pub(super) lost: Vec<Ticket>,
    pub(super) fate: Fate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Fate {
    #[default]
    Continues,
    Ended,
    Lost,
}

impl Sequences {
    pub(super) fn new(bounds: Sequencing) -> Self {
        Self { bounds, live: HashMap::new(), idle: BTreeMap::new(), closing: Vec::new(), last: 0 }
    }

    pub(super) fn live(&self) -> usize {
        self.live.len()
    }

    /// Gives the request its place; whether it is its turn.
    pub(super) fn enter(&mut self, place: &mut Place, now: Instant) -> Result<bool, Misplaced> {
        if let Some(sequence) = self.live.get_mut(&place.key) {
            if sequence.ends && !place.start {
                return Err(Misplaced::NoState);
            }
            place.member = sequence.member;
            sequence.ends = place.end;
            let Some(since) = sequence.idle_since.take() else { return Ok(false) };
            self.idle.remove(&(since, sequence.member));
            return Ok(true);
        }
        if !place.start {
            return Err(Misplaced::NoState);
        }
        if self.live.len() >= self.bounds.max_sequences {
            let since = self.idle.keys().next().map(|(since, _)| *since);
            let free_in = since.map_or(self.bounds.max_idle, |since| {
                (since + self.bounds.max_idle).saturating_duration_since(now)
            });
            return Err(Misplaced::TooMany { free_in });
        }
        self.last += 1;
        place.member = MemberId(self.last);
        let sequence =
            Sequence { member: place.member, idle_since: None, held: VecDeque::new(), ends: place.end };
        self.live.insert(Arc::clone(&place.key), sequence);
        Ok(true)
    }

    /// Keeps a request whose turn has not come.
    pub(super) fn hold(&mut self, place: &Place, ticket: Ticket) {
        if let Some(sequence) = self.live.get_mut(&place.key) {
            sequence.held.push_back(ticket);
        }
    }

    /// The request at `place` ended, with a result or without.
    pub(super) fn advance(&mut self, place: &Place, result: bool, now: Instant) -> Advanced {
        let mut advanced = Advanced::default();
        let Some(sequence) = self.live.get_mut(&place.key).filter(|it| it.member == place.member) else {
            return advanced;
        };
        if !result {
            advanced.fate = Fate::Lost;
            let begins = |ticket: &Ticket| ticket.place.as_ref().is_some_and(|place| place.start);
            let lost = sequence.held.iter().position(begins).unwrap_or(sequence.held.len());
            advanced.lost.extend(sequence.held.drain(..lost));
        } else if place.end {
            advanced.fate = Fate::Ended;
        }
        advanced.next = sequence.held.pop_front();
        if advanced.next.is_some() {
            return advanced;
        }
        let member = sequence.member;
        match advanced.fate {
            Fate::Continues => {
                sequence.idle_since = Some(now);
                self.idle.insert((now, member), Arc::clone(&place.key));
            }
            Fate::Ended => {
                self.live.remove(&place.key);
            }
            Fate::Lost => {
                self.live.remove(&place.key);
                self.closing.push(member);
            }
        }
        advanced
    }

    /// Ends what was idle for too long; how many.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while let Some(entry) = self.idle.first_entry() {
            let (since, member) = *entry.key();
            if since + self.bounds.max_idle > now {
                break;
            }
            let key = entry.remove();
            self.live.remove(&key);
            self.closing.push(member);
            expired += 1;
        }
        expired
    }

    /// When the next one will have been idle for too long.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.idle.keys().next().map(|(since, _)| *since + self.bounds.max_idle)
    }

    /// Members whose state is to be freed, since the last call.
    pub(super) fn closing(&mut self) -> Option<Vec<MemberId>> {
        (!self.closing.is_empty()).then(|| std::mem::take(&mut self.closing))
    }

    /// Forgets every sequence; the requests that were held.
    pub(super) fn empty(&mut self) -> Vec<Ticket> {
        self.idle.clear();
        self.live.drain().flat_map(|(_, sequence)| sequence.held).collect()
    }
}
