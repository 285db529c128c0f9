use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Lets batches out in the order in which they were taken (`preserve_ordering`).
#[derive(Debug)]
pub(super) struct Order<T> {
    state: Mutex<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    next: u64,
    done: BTreeMap<u64, T>,
}

impl<T> Order<T> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(Waiting { next: 0, done: BTreeMap::new() }) }
    }

    /// Batch `number` is done: lets it out, and those that waited for it. Each number comes once, from 0 on.
    pub(super) fn done(&self, number: u64, batch: T, mut out: impl FnMut(T)) {
        // Held while they go out, or two threads could still change places.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done.insert(number, batch);
        loop {
            let next = state.next;
            let Some(batch) = state.done.remove(&next) else { return };
            state.next += 1;
            out(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_leave_as_they_were_taken() {
        let order = Order::new();
        let mut left = Vec::new();
        for (number, expected) in [(1, 0), (3, 0), (0, 2), (4, 2), (2, 5), (5, 6)] {
            order.done(number, number, |number| left.push(number));
            assert_eq!(left, (0..expected).collect::<Vec<_>>(), "after {number}");
        }
    }
}
