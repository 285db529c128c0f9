//! What loaded models take, against what they may take.
//!
//! Before a load there is an estimate: what the same files were measured to take, or else their size. After the
//! warm-up run it is measured: what the engine tells of itself, or how much more its backend uses. Both are held
//! against the budget. A version that is swapped out counts until its engine is gone.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::Footprint;

use crate::error::Error;
use crate::repository::Stamp;

/// What all models of the agent share.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    host: Option<u64>,
    device: Option<u64>,
    /// How long a load waits for memory that is being given back.
    patience: Duration,
    held: Mutex<Held>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    leases: BTreeMap<u64, Share>,
    /// By name and version: the files, and what they were measured to take.
    measured: HashMap<(String, u64), (Stamp, Footprint)>,
}

#[derive(Debug)]
struct Share {
    name: String,
    version: u64,
    takes: Footprint,
    leaves: bool,
}

/// How a footprint is known.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measured {
    /// By the engine, of its own process.
    Told(Footprint),
    /// By what its backend uses more. That is less than the model takes where the allocator had memory left over, so
    /// the most that the same files were ever seen to take counts.
    Difference(Footprint),
}

/// A version's part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    budget: Arc<MemoryBudget>,
    id: u64,
}

impl MemoryBudget {
    pub(crate) fn new(host: Option<u64>, device: Option<u64>, patience: Duration) -> Arc<Self> {
        Arc::new(Self { host, device, patience, held: Mutex::default(), freed: Condvar::new() })
    }

    /// Room for a load of the files `stamp`, of which a GPU gets a copy where `on_device`. Blocking, while other
    /// versions give memory back.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        name: &str,
        version: u64,
        stamp: &Stamp,
        on_device: bool,
    ) -> Result<Lease, Error> {
        let deadline = Instant::now() + self.patience;
        let mut held = self.lock();
        let known = held.measured.get(&(name.to_owned(), version)).filter(|(files, _)| files == stamp);
        let (takes, how) = match known {
            Some((_, measured)) => (*measured, "measured at its last load"),
            None => {
                let bytes = stamp.bytes();
                let device_bytes = if on_device { bytes } else { 0 };
                (Footprint { host_bytes: bytes, device_bytes }, "the size of its files")
            }
        };
        while let Some(detail) = self.lacks(&held, takes, how) {
            let now = Instant::now();
            if now >= deadline || !held.leases.values().any(|it| it.leaves) {
                return Err(Error::Memory { detail });
            }
            let waited = self.freed.wait_timeout(held, deadline.saturating_duration_since(now));
            held = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let id = held.next;
        held.next += 1;
        held.leases.insert(id, Share { name: name.to_owned(), version, takes, leaves: false });
        Ok(Lease { budget: Arc::clone(self), id })
    }

    /// Bytes of all versions that are loaded, being loaded, or ending.
    pub(crate) fn used(&self) -> Footprint {
        self.lock().used()
    }

    /// Why `more` does not fit beside what is held.
    fn lacks(&self, held: &Held, more: Footprint, how: &str) -> Option<String> {
        let used = held.used();
        for (what, budget, more, used) in [
            ("host", self.host, more.host_bytes, used.host_bytes),
            ("device", self.device, more.device_bytes, used.device_bytes),
        ] {
            let Some(budget) = budget.filter(|budget| used.saturating_add(more) > *budget) else { continue };
            let mut text =
                format!("it needs {more} bytes of {what} memory ({how}), {used} of {budget} are in use");
            for Share { name, version, takes, leaves } in held.leases.values() {
                let bytes = if what == "host" { takes.host_bytes } else { takes.device_bytes };
                let state = if *leaves { ", ending" } else { "" };
                write!(text, "; {name} version {version}: {bytes}{state}").ok();
            }
            text += "; a version that serves stays until the new one is warm, so both must fit";
            return Some(text);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn used(&self) -> Footprint {
        self.leases.values().fold(Footprint::default(), |sum, it| Footprint {
            host_bytes: sum.host_bytes.saturating_add(it.takes.host_bytes),
            device_bytes: sum.device_bytes.saturating_add(it.takes.device_bytes),
        })
    }
}

impl Lease {
    /// The version was measured. What is over the budget now must not serve.
    pub(crate) fn settle(&self, stamp: Stamp, measured: Measured) -> Result<(), Error> {
        let mut held = self.budget.lock();
        let Some(mut own) = held.leases.remove(&self.id) else { return Ok(()) };
        let known = held.measured.get(&(own.name.clone(), own.version)).filter(|(files, _)| *files == stamp);
        let measured = match (measured, known) {
            (Measured::Told(footprint), _) | (Measured::Difference(footprint), None) => footprint,
            (Measured::Difference(now), Some((_, before))) => Footprint {
                host_bytes: now.host_bytes.max(before.host_bytes),
                device_bytes: now.device_bytes.max(before.device_bytes),
            },
        };
        let lacks = self.budget.lacks(&held, measured, "measured");
        own.takes = measured;
        held.measured.insert((own.name.clone(), own.version), (stamp, measured));
        held.leases.insert(self.id, own);
        lacks.map_or(Ok(()), |detail| Err(Error::Memory { detail }))
    }

    pub(crate) fn footprint(&self) -> Footprint {
        self.budget.lock().leases.get(&self.id).map(|it| it.takes).unwrap_or_default()
    }

    /// The version takes no more requests: its memory is about to come back.
    pub(crate) fn leaves(&self) {
        if let Some(own) = self.budget.lock().leases.get_mut(&self.id) {
            own.leaves = true;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.lock().leases.remove(&self.id);
        self.budget.freed.notify_all();
    }
}
