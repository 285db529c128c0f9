//! Room and time: what is refused at once instead of being made to wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wire::{Error, ErrorCode};

/// Bytes of all bodies that are being read or queued.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// # Errors
    /// `TooLarge` for what could never fit, `Unavailable` for what does not fit now.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Error> {
        let mut reservation = Reservation { budget: Arc::clone(self), bytes: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }
}

/// A part of the byte budget, given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// More room, for a body whose length is found out while it is read.
    ///
    /// # Errors
    /// `TooLarge` when the whole would be over the budget, `Unavailable` when others have the room now. What
    /// was reserved before stays reserved.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        let Budget { limit, used } = &*self.budget;
        if self.bytes.saturating_add(bytes) > *limit {
            let text = format!("the body is over the {limit} bytes that this agent buffers for all requests");
            return Err(Error::new(ErrorCode::TooLarge, text));
        }
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| sum <= limit)
        });
        if taken.is_err() {
            let text = format!("the bodies of other requests fill the {limit} bytes that this agent buffers");
            return Err(Error::unavailable(text, retry_after(Duration::ZERO)));
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// When to come back after `wait`: whole seconds, at least one, as the Retry-After header counts.
pub(crate) fn retry_after(wait: Duration) -> Duration {
    let up = u64::from(wait.subsec_nanos() > 0);
    Duration::from_secs(wait.as_secs().saturating_add(up).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_and_never_exceeded() {
        let budget = Budget::new(100);
        let mut first = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).unwrap_err().code, ErrorCode::Unavailable);
        assert_eq!(budget.reserve(101).unwrap_err().code, ErrorCode::TooLarge);
        assert_eq!(budget.reserve(u64::MAX).unwrap_err().code, ErrorCode::TooLarge);
        first.grow(40).unwrap();
        assert_eq!(first.grow(1).unwrap_err().code, ErrorCode::TooLarge);
        assert_eq!((first.bytes(), budget.used()), (100, 100));
        drop(first);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn retry_after_is_whole_seconds() {
        let check = |ms, secs| assert_eq!(retry_after(Duration::from_millis(ms)).as_secs(), secs, "{ms} ms");
        check(0, 1);
        check(1, 1);
        check(1000, 1);
        check(1001, 2);
    }
}
