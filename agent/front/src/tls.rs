//! TLS on the TCP listeners, by rustls with ring: the box's own certificate, and client certificates where
//! `client_ca` is set. No port is plain beside it.
//!
//! A handshake runs in its connection's own task, has a place under the connection limit, and a deadline. The files
//! may change while the agent runs ([`crate::live`]): new connections get the new certificate and the new client CAs,
//! and sessions of the old ones are not resumed; open connections go on.
//!
//! **The clock.** Serving needs none: whether the box's certificate is still good is for the client to say. At the
//! start an expired one is served with a warning, because without it nothing is; later, an expired one never
//! replaces one that is still good. Client certificates are judged by the clock, but never by one that is wrong for
//! certain: see [`clients`].

mod clients;
mod handshake;
mod load;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;

use crate::Error;
use crate::live::Live;
pub(crate) use handshake::{Alpn, Handshake, Peer};
use load::Loaded;

/// `[listen.tls]`: PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The box's certificate, and behind it those that lead to a root that clients know.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC 1, not encrypted, not open to every user.
    pub key: PathBuf,
    /// Who signs client certificates; unset: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// With `client_ca`.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    #[serde(default)]
    pub min_version: TlsVersion,
    /// From the connection to the end of the handshake.
    #[serde(default = "default_handshake_timeout_ms")]
    pub handshake_timeout_ms: u64,
}

fn default_handshake_timeout_ms() -> u64 {
    10_000
}

/// Whether a client without a certificate may connect. A bad one is refused either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    #[default]
    Required,
    Optional,
}

/// The oldest TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

/// The certificate in use.
#[derive(Debug)]
pub(crate) struct Tls {
    live: Live<Loaded>,
    handshake_time: Duration,
    failed_handshakes: AtomicU64,
}

impl Tls {
    pub(crate) fn load(config: &TlsConfig) -> Result<Self, Error> {
        let files = [Some(&config.cert), Some(&config.key), config.client_ca.as_ref()];
        let files = files.into_iter().flatten().cloned().collect();
        let told = config.clone();
        let read = move |current: Option<&Loaded>| load::read(&told, current);
        Ok(Self {
            live: Live::load("certificate", files, Box::new(read))?,
            handshake_time: Duration::from_millis(config.handshake_timeout_ms),
            failed_handshakes: AtomicU64::new(0),
        })
    }

    /// See [`Live::look`].
    pub(crate) fn look(&self, anyway: bool) -> Result<(), Error> {
        self.live.look(anyway)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.live.failures()
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.live.failure()
    }

    pub(crate) fn not_after_unix_s(&self) -> u64 {
        self.live.current().not_after_unix_s
    }

    pub(crate) fn failed_handshakes(&self) -> u64 {
        self.failed_handshakes.load(Ordering::Relaxed)
    }

    /// For one listener, which speaks one protocol.
    pub(crate) fn handshake(self: &Arc<Self>, alpn: Alpn) -> Handshake {
        Handshake::new(Arc::clone(self), alpn)
    }
}
