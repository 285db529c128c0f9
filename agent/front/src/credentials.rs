//! The certificates and keys of the listeners, and the task that sees when their files change.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::keys::Keys;
use crate::metrics::Page;
use crate::tls::Tls;
use crate::{Config, Error};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What the TCP listeners ask of who connects. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) keys: Option<Arc<Keys>>,
}

/// For the status of the agent. Nothing in it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsView {
    /// The end of the certificate in use, s since 1970; absent without TLS.
    pub certificate_not_after_unix_s: Option<u64>,
    /// Why the certificate files as they are now are not in use.
    pub certificate_failure: Option<String>,
    /// Absent where no key is asked for.
    pub keys: Option<usize>,
    pub keys_failure: Option<String>,
}

impl Credentials {
    /// Reads the files that `config` names.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::OpenToAll`], [`Error::Certificate`], [`Error::Tls`] and [`Error::Keys`].
    pub fn load(config: &Config) -> Result<Self, Error> {
        let tls = config.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let keys = config.keys.as_ref().map(Keys::load).transpose()?.map(Arc::new);
        Ok(Self { tls, keys })
    }

    /// Reads the files again, changed or not. What cannot be used does not replace what is in use. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// Those of [`Credentials::load`], of the first that cannot be used.
    pub fn reload(&self) -> Result<(), Error> {
        self.look(true)
    }

    fn look(&self, anyway: bool) -> Result<(), Error> {
        let tls = self.tls.as_ref().map_or(Ok(()), |tls| tls.look(anyway));
        let keys = self.keys.as_ref().map_or(Ok(()), |keys| keys.look(anyway));
        tls.and(keys)
    }

    pub fn view(&self) -> CredentialsView {
        let (tls, keys) = (self.tls.as_deref(), self.keys.as_deref());
        CredentialsView {
            certificate_not_after_unix_s: tls.map(|tls| tls.not_after_unix_s()),
            certificate_failure: tls.and_then(|tls| tls.failure()),
            keys: keys.map(Keys::len),
            keys_failure: keys.and_then(|keys| keys.failure()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tls.is_none() && self.keys.is_none()
    }

    /// Takes changed files until `shutdown` turns true or its sender is gone.
    pub(crate) async fn keep(self, mut shutdown: watch::Receiver<bool>) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                // An error means that the sender is gone. Cancel safe: a watch receiver keeps its value.
                _ = shutdown.wait_for(|requested| *requested) => return,
            }
            let credentials = self.clone();
            // What fails is told by look itself; a panic in there costs one look.
            tokio::task::spawn_blocking(move || credentials.look(false).ok()).await.ok();
        }
    }

    /// The lines of `GET /metrics`.
    pub(crate) fn write(&self, page: &mut Page) {
        use std::sync::atomic::Ordering::Relaxed;
        if let Some(tls) = &self.tls {
            let name = "mast_tls_certificate_expiry_seconds";
            page.family(name, "gauge", "End of the certificate in use, in seconds since 1970");
            page.sample(name, &[], tls.not_after_unix_s());
            let name = "mast_tls_reload_failures_total";
            page.family(
                name,
                "counter",
                "Certificate files that could not be used in place of the one in use",
            );
            page.sample(name, &[], tls.failures());
            let name = "mast_tls_handshake_failures_total";
            page.family(name, "counter", "Connections that did not get through the TLS handshake");
            page.sample(name, &[], tls.failed_handshakes());
        }
        if let Some(keys) = &self.keys {
            let name = "mast_keys";
            page.family(name, "gauge", "Keys in force");
            page.sample(name, &[], keys.len());
            let name = "mast_keys_reload_failures_total";
            page.family(name, "counter", "Key files that could not be used in place of the one in use");
            page.sample(name, &[], keys.failures());
            let name = "mast_denied_total";
            page.family(name, "counter", "Requests turned away by their key, before their body was read");
            for (reason, count) in [
                ("unauthenticated", &keys.denied.unauthenticated),
                ("refused", &keys.denied.refused),
                ("rate", &keys.denied.over_rate),
            ] {
                page.sample(name, &[("reason", reason.to_owned())], count.load(Relaxed));
            }
        }
    }
}
