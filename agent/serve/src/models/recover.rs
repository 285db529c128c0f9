//! A version whose engines were lost gets new ones: the first times at once, so that what is queued can wait for
//! them; then after longer and longer times, in which requests are refused. Never is it given up: a box that nobody
//! visits has nobody to ask. The index says why it does not serve and when it is tried again; a load that somebody
//! asks for is done at once and begins anew.

use std::sync::{Arc, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use wire::chain;

use super::{Models, Warm};
use crate::error::Error;
use crate::model::Model;
use crate::repository::Stamp;
use crate::schedule::{OnLost, Queue};

/// Losses that are answered at once: a request that kills its engine does it twice before it is told.
const AT_ONCE: u32 = 2;
/// Between two loads.
const LONGEST: Duration = Duration::from_secs(60);
/// A version that served for so long has made up for the losses before.
const HEALTHY: Duration = Duration::from_secs(60);

/// How often a version lost its engines, and when it got new ones.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    losses: u32,
    revived: Option<Instant>,
}

impl Recovery {
    /// Engines were lost; when to load new ones.
    fn lost(&mut self, now: Instant) -> Duration {
        if self.revived.take().is_some_and(|revived| now.saturating_duration_since(revived) >= HEALTHY) {
            self.losses = 0;
        }
        self.again()
    }

    /// There are no new ones yet; when to try again.
    fn failed(&mut self) -> Duration {
        self.losses = self.losses.max(AT_ONCE);
        self.again()
    }

    fn revived(&mut self, now: Instant) {
        self.revived = Some(now);
    }

    fn again(&mut self) -> Duration {
        let doublings = self.losses.checked_sub(AT_ONCE);
        self.losses = self.losses.saturating_add(1);
        let seconds = doublings.map_or(0, |doublings| 1_u64.checked_shl(doublings).unwrap_or(u64::MAX));
        Duration::from_secs(seconds).min(LONGEST)
    }
}

/// What an engine's thread calls when the engines of its queue are lost.
pub(super) fn on_lost(models: &Weak<Models>, name: &str) -> OnLost {
    let (models, name) = (Weak::clone(models), name.to_owned());
    Box::new(move |queue| match models.upgrade() {
        Some(models) => models.recover(&name, queue),
        None => queue.give_up("the agent is stopping"),
    })
}

impl Models {
    /// Has new engines loaded for the version of `queue`, if it is one that serves.
    pub(super) fn recover(&self, name: &str, queue: &Arc<Queue>) {
        let serves = |model: &&Arc<Model>| Arc::ptr_eq(&model.queue, queue);
        let found = self.read().get(name).and_then(|slot| slot.serving.values().find(serves).cloned());
        let Some(model) = found else { return queue.give_up("it was replaced or unloaded") };
        let delay = lock(&model).lost(Instant::now());
        if !delay.is_zero() {
            queue.give_up(&format!("it was lost again and again: the next load is in {} s", delay.as_secs()));
        }
        let (models, lost) = (Weak::clone(&self.me), Arc::downgrade(&model));
        let thread = thread::Builder::new().name(format!("reload-{name}"));
        if let Err(error) = thread.spawn(move || reload(&models, &lost, delay)) {
            queue.give_up(&format!("the thread that loads it again cannot start: {error}"));
            tracing::error!(model = name, %error, "cannot start the thread that loads a lost model again");
        }
    }

    /// New engines for a lost version, as it was configured when it was loaded, whatever lies in the folder now. Only
    /// where its own files changed, it is another version under the same number.
    fn revive(&self, model: &Arc<Model>) -> Result<(), Error> {
        let (name, version) = (&model.name, model.version);
        if Stamp::of(&model.dir.join(version.to_string()))? != model.stamp {
            return self.load_version(name, version, &model.config);
        }
        model.leave();
        let Warm { engines, pending, placement, lease, .. } =
            self.warm(name, version, (*model.config).clone(), model.states.clone())?;
        model.revive(&placement, engines, pending, lease, on_lost(&self.me, name))
    }
}

fn reload(models: &Weak<Models>, lost: &Weak<Model>, mut delay: Duration) {
    loop {
        thread::sleep(delay);
        let (Some(models), Some(model)) = (models.upgrade(), lost.upgrade()) else { return };
        // While the agent stops there is nothing to load any more.
        let Ok(turn) = models.turn(&model.name) else { return model.queue.give_up("the agent is stopping") };
        let _turn = turn.blocking_lock();
        let serves = models.with_slot_if(&model.name, |slot| {
            slot.serving.get(&model.version).is_some_and(|serving| Arc::ptr_eq(serving, &model))
        });
        // Somebody else loaded or unloaded it meanwhile.
        if serves != Some(true) || !model.queue.phase().is_lost() {
            return;
        }
        match models.revive(&model) {
            Ok(()) => return lock(&model).revived(Instant::now()),
            Err(error) => {
                delay = lock(&model).failed();
                let (name, version, reason, seconds) =
                    (&model.name, model.version, chain(&error), delay.as_secs());
                tracing::warn!(model = %name, version, %reason, seconds, "a lost model cannot be loaded again yet");
                model
                    .queue
                    .give_up(&format!("loading it again failed: {reason}; the next load is in {seconds} s"));
            }
        }
    }
}

fn lock(model: &Model) -> std::sync::MutexGuard<'_, Recovery> {
    model.recovery.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_in_a_row_are_answered_later_and_later_and_health_is_remembered() {
        let (mut recovery, mut now) = (Recovery::default(), Instant::now());
        for expected in [0, 0, 1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(recovery.lost(now).as_secs(), expected);
            recovery.revived(now);
            now += Duration::from_secs(59);
        }
        now += Duration::from_secs(1);
        assert_eq!(recovery.lost(now).as_secs(), 0, "it served for a minute");
        // A load that fails is never tried again at once.
        for expected in [1, 2, 4] {
            assert_eq!(recovery.failed().as_secs(), expected);
        }
        now += Duration::from_secs(3600);
        assert_eq!(recovery.lost(now).as_secs(), 8, "it did not serve since");
        for _ in 0..100 {
            assert!(recovery.failed() <= LONGEST);
        }
    }
}
