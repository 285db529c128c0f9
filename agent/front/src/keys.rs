//! Who may call: the API keys of `[listen.keys]`, by the SHA-256 of each.
//!
//! The file is TOML, one `[[key]]` per caller, not open to every user of the box:
//!
//! | key | |
//! |---|---|
//! | `id` | a name for the log and for people: `[A-Za-z0-9._-]{1,64}`, once in the file |
//! | `sha256` | hex of SHA-256 of the whole key, as `mast keys new` prints it |
//! | `certificate_sha256` | hex of SHA-256 of a client certificate (DER); one of the two is needed, both may be given |
//! | `tenant` | whose data this caller sends; unset: the request's label says |
//! | `models` | names with `*` for any characters; unset: all |
//! | `requests_per_second`, `burst` | unset: no rate; `burst` defaults to one second's worth |
//! | `admin` | may load and unload models; default false |
//! | `expires` | an offset date-time (RFC 3339), or a date, which means its first second in UTC |
//!
//! A digest is no secret as long as the key has 256 random bits, which is why a sent key of fewer than 32 characters
//! is never looked up. It is found by a keyed hash and compared in constant time.

mod file;
mod rate;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_rustls::rustls::crypto::ring;

use crate::Error;
use crate::live::Live;
use rate::{Pace, Rate};

/// `[listen.keys]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysConfig {
    /// The file of keys.
    pub file: PathBuf,
}

/// The shortest and the longest text that is looked up as a key.
const KEY_LENGTH: std::ops::RangeInclusive<usize> = 32..=512;

/// SHA-256.
pub(crate) type Digest = [u8; 32];

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// One caller that the file names.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) tenant: Option<String>,
    /// Unset: all.
    pub(crate) models: Option<Vec<String>>,
    pub(crate) admin: bool,
    pub(crate) expires_unix_s: Option<u64>,
    rate: Option<Rate>,
    /// Goes on when the file is read again.
    pace: Arc<Pace>,
}

impl Key {
    /// Takes one request from the rate, or says how long to wait.
    pub(crate) fn spend(&self) -> Result<(), std::time::Duration> {
        self.rate.as_ref().map_or(Ok(()), |rate| self.pace.spend(rate))
    }

    pub(crate) fn may_use(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| matches(pattern, model)))
    }
}

/// Neither the tenant nor anything that leads to the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("admin", &self.admin).finish_non_exhaustive()
    }
}

/// Whether `name` is `pattern` with any characters in the place of each `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part).and_then(|found| rest.get(found + part.len()..)) {
            Some(left) => rest = left,
            None => return false,
        }
    }
    false
}

/// The keys of one reading of the file.
#[derive(Debug)]
struct Table {
    /// By id.
    keys: HashMap<String, Arc<Key>>,
    by_key: Index,
    by_certificate: Index,
}

/// Finds a key by a digest in the same time whatever the digest.
#[derive(Default)]
struct Index {
    hasher: RandomState,
    entries: HashMap<u64, Vec<(Digest, Arc<Key>)>>,
}

impl Index {
    /// False if the digest is there already.
    fn insert(&mut self, digest: Digest, key: Arc<Key>) -> bool {
        let entries = self.entries.entry(self.hasher.hash_one(digest)).or_default();
        let new = entries.iter().all(|(known, _)| *known != digest);
        entries.push((digest, key));
        new
    }

    fn find(&self, digest: &Digest) -> Option<&Arc<Key>> {
        let entries = self.entries.get(&self.hasher.hash_one(digest))?;
        entries.iter().find(|(known, _)| bool::from(known.ct_eq(digest))).map(|(_, key)| key)
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

/// The keys in force, and what became of those who came without a good one.
#[derive(Debug)]
pub(crate) struct Keys {
    live: Live<Table>,
    pub(crate) denied: Denied,
}

/// Requests that were turned away, by reason.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    pub(crate) unauthenticated: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) over_rate: AtomicU64,
}

impl Keys {
    pub(crate) fn load(config: &KeysConfig) -> Result<Self, Error> {
        let path = config.file.clone();
        let read = move |current: Option<&Table>| file::read(&path, current);
        let live = Live::load("keys", vec![config.file.clone()], Box::new(read))?;
        Ok(Self { live, denied: Denied::default() })
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

    pub(crate) fn len(&self) -> usize {
        self.live.current().keys.len()
    }

    /// Whose key this text is.
    pub(crate) fn by_text(&self, text: &[u8]) -> Option<Arc<Key>> {
        if !KEY_LENGTH.contains(&text.len()) {
            return None;
        }
        self.live.current().by_key.find(&digest(text)).cloned()
    }

    /// Whose certificate this is the digest of.
    pub(crate) fn by_certificate(&self, digest: &Digest) -> Option<Arc<Key>> {
        self.live.current().by_certificate.find(digest).cloned()
    }
}

impl Denied {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether `text` could be the file of keys.
///
/// # Errors
/// What is wrong with it: line, id and key, never a value.
pub fn check_keys(text: &str) -> Result<(), String> {
    file::parse(text, None).map(|_| ())
}

/// A key that was just made: the text, which is shown once, and what the file of keys holds of it.
pub struct NewKey {
    pub key: String,
    pub sha256: String,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").finish_non_exhaustive()
    }
}

/// Makes a key of 256 random bits; `None` if the system has no randomness to give.
pub fn new_key() -> Option<NewKey> {
    let mut random = [0_u8; 32];
    ring::default_provider().secure_random.fill(&mut random).ok()?;
    let key = format!("mast_{}", hex::encode(random));
    let sha256 = hex::encode(digest(key.as_bytes()));
    Some(NewKey { key, sha256 })
}
