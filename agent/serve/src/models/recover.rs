//! A model whose device was lost is loaded again in the background, a few times and no more.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::{Models, Which};
use crate::schedule::{OnLost, Phase};

/// Loads by ourselves until somebody asks for one again.
const ATTEMPTS: u32 = 3;

/// What the engine's thread calls when its device is lost.
pub(super) fn on_lost(models: &Weak<Models>, name: &str) -> OnLost {
    let (models, name) = (Weak::clone(models), name.to_owned());
    Box::new(move || {
        let thread = thread::Builder::new().name(format!("reload-{name}"));
        if let Err(error) = thread.spawn(move || reload(&models, &name)) {
            tracing::error!(%error, "cannot start the thread that loads a lost model again");
        }
    })
}

fn reload(models: &Weak<Models>, name: &str) {
    loop {
        let Some(models) = models.upgrade() else { return };
        let Ok(turn) = models.turn(name) else { return };
        let _turn = turn.blocking_lock();
        let attempt = {
            let mut slots = models.write();
            let Some(slot) = slots.get_mut(name) else { return };
            let lost = slot.serving.values().any(|model| matches!(model.queue.phase(), Phase::Lost(_)));
            // Somebody else loaded or unloaded it meanwhile.
            if !lost || slot.recoveries == ATTEMPTS {
                return;
            }
            slot.recoveries += 1;
            slot.recoveries
        };
        if models.draining.load(Ordering::SeqCst) || models.load_now(name, Which::Lost, None).is_ok() {
            return;
        }
        drop(_turn);
        drop(models);
        thread::sleep(Duration::from_secs(1 << attempt));
    }
}
