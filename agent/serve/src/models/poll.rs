//! The repository as the one who says what is loaded (`ModelControlMode::Poll`).
//!
//! A folder that changed is loaded when it then lay still for one interval, so that what is copied halfway is left
//! alone. What failed is tried again when its files changed, and not before.

use std::collections::BTreeMap;

use super::{Models, Which};
use crate::repository::Seen;

/// What the last look found.
#[derive(Debug, Default)]
pub(crate) struct Poller {
    last: BTreeMap<String, Seen>,
    /// So that one trouble is one line of the log.
    trouble: String,
}

impl Models {
    /// One look, and what follows from it.
    pub(crate) async fn poll_once(&self, poller: &mut Poller) {
        let Some(models) = self.me.upgrade() else { return };
        let looked = tokio::task::spawn_blocking(move || models.look()).await;
        let now = match looked.map_err(|error| error.to_string()).and_then(|looked| looked) {
            Ok(now) => now,
            Err(trouble) => {
                // Models that serve stay, for the repository may come back: a disk that is not mounted.
                if poller.trouble != trouble {
                    tracing::warn!(reason = %trouble, "cannot look at the model repository");
                    poller.trouble = trouble;
                }
                return;
            }
        };
        poller.trouble.clear();
        for (name, seen) in &now {
            let still = poller.last.get(name) == Some(seen);
            let changed = self.read().get(name).is_none_or(|slot| slot.attempted.as_ref() != Some(seen));
            if still && changed {
                // The reason is in the log and the index.
                self.load(name, Which::Changed, None).await.ok();
            }
        }
        let gone: Vec<_> = self
            .read()
            .iter()
            .filter(|(name, slot)| !slot.serving.is_empty() && !now.contains_key(*name))
            .map(|(name, _)| name.clone())
            .filter(|name| !poller.last.contains_key(name))
            .collect();
        for name in gone {
            if self.unload(&name).await.is_ok() {
                self.forget(&name);
            }
        }
        poller.last = now;
    }

    fn look(&self) -> Result<BTreeMap<String, Seen>, String> {
        let names = self.repository.names().map_err(|error| wire::chain(&error))?;
        // A folder that cannot be looked into is as good as none, until it can.
        Ok(names
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.repository.see(&name).ok()?)))
            .collect())
    }

    fn forget(&self, name: &str) {
        if let Some(slot) = self.write().get_mut(name) {
            slot.attempted = None;
        }
    }
}
