//! The file of keys. What is wrong with it is told by line, id and key; never by a value, which may be a key that
//! somebody put in the wrong place.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use toml::value::{Datetime, Offset};
use x509_cert::der::DateTime;

use super::{Digest, Index, Key, Pace, Rate, Table};
use crate::{Error, live};

const KEYS_LIMIT: usize = 4096;
const MODELS_LIMIT: usize = 64;
const NAME_LIMIT: usize = 256;
const PER_SECOND: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    sha256: Option<String>,
    certificate_sha256: Option<String>,
    tenant: Option<String>,
    models: Option<Vec<String>>,
    requests_per_second: Option<f64>,
    burst: Option<u32>,
    #[serde(default)]
    admin: bool,
    expires: Option<Datetime>,
}

pub(super) fn read(path: &Path, current: Option<&Table>) -> Result<Table, Error> {
    let content = live::read_secret(path)?;
    let wrong = |detail: String| Error::Keys { path: path.to_owned(), detail };
    let text = std::str::from_utf8(&content).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    parse(text, current).map_err(wrong)
}

pub(super) fn parse(text: &str, current: Option<&Table>) -> Result<Table, String> {
    let file: File = toml::from_str(text).map_err(|error| complaint(text, &error))?;
    if file.key.is_empty() {
        return Err("it holds no [[key]]; without [listen.keys] no key is asked for".to_owned());
    }
    if file.key.len() > KEYS_LIMIT {
        return Err(format!("it holds more than {KEYS_LIMIT} keys"));
    }
    let (mut by_key, mut by_certificate) = (Index::default(), Index::default());
    let mut keys: HashMap<String, Arc<Key>> = HashMap::with_capacity(file.key.len());
    for (index, entry) in file.key.into_iter().enumerate() {
        if !is_word(&entry.id, 64) {
            return Err(format!("the id of [[key]] {} must be 1 to 64 of A-Z a-z 0-9 . _ -", index + 1));
        }
        let id = entry.id.clone();
        let of_key = |detail: &str| format!("key '{id}': {detail}");
        if keys.contains_key(&id) {
            return Err(of_key("the id stands twice"));
        }
        let sha256 = entry
            .sha256
            .as_deref()
            .map(hex_digest)
            .transpose()
            .map_err(|why| of_key(&format!("sha256 {why}")))?;
        let certificate = entry
            .certificate_sha256
            .as_deref()
            .map(hex_digest)
            .transpose()
            .map_err(|why| of_key(&format!("certificate_sha256 {why}")))?;
        if sha256.is_none() && certificate.is_none() {
            return Err(of_key("sha256 or certificate_sha256 is missing (mast keys new makes one)"));
        }
        let key = Arc::new(key(entry, current).map_err(|why| of_key(&why))?);
        for (digest, index) in [(sha256, &mut by_key), (certificate, &mut by_certificate)] {
            if digest.is_some_and(|digest| !index.insert(digest, Arc::clone(&key))) {
                return Err(of_key("another key has the same digest"));
            }
        }
        keys.insert(id, key);
    }
    Ok(Table { keys, by_key, by_certificate })
}

fn key(entry: Entry, current: Option<&Table>) -> Result<Key, String> {
    if entry.tenant.as_ref().is_some_and(|tenant| !is_plain(tenant)) {
        return Err("tenant must be 1 to 256 characters of plain text".to_owned());
    }
    let models = entry.models.as_deref().unwrap_or_default();
    if models.len() > MODELS_LIMIT || models.iter().any(|name| name.is_empty() || name.len() > NAME_LIMIT) {
        return Err(format!("models must be at most {MODELS_LIMIT} names of 1 to {NAME_LIMIT} bytes"));
    }
    let rate = match (entry.requests_per_second, entry.burst) {
        (None, None) => None,
        (None, Some(_)) => return Err("burst needs requests_per_second".to_owned()),
        (Some(per_second), _) if !PER_SECOND.contains(&per_second) => {
            return Err("requests_per_second must be 0.001 to 1000000".to_owned());
        }
        (Some(_), Some(0)) => return Err("burst must be at least 1".to_owned()),
        (Some(per_second), burst) => Some(Rate::new(per_second, burst.unwrap_or_else(|| whole(per_second)))),
    };
    let known = current.and_then(|table| table.keys.get(&entry.id));
    let expires_unix_s = entry.expires.as_ref().map(unix_s).transpose()?;
    Ok(Key {
        id: entry.id,
        tenant: entry.tenant,
        models: entry.models,
        admin: entry.admin,
        expires_unix_s,
        rate,
        pace: known.map_or_else(|| Arc::new(Pace::default()), |key| Arc::clone(&key.pace)),
    })
}

/// One second's worth, at least one; the range is checked.
fn whole(per_second: f64) -> u32 {
    let seconds = Duration::from_secs_f64(per_second);
    let whole = seconds.as_secs() + u64::from(seconds.subsec_nanos() > 0);
    u32::try_from(whole).unwrap_or(u32::MAX).max(1)
}

fn is_word(text: &str, limit: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=limit).contains(&text.len()) && text.bytes().all(allowed)
}

/// What a header can carry as it is.
fn is_plain(text: &str) -> bool {
    (1..=NAME_LIMIT).contains(&text.len())
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
        && text.trim().len() == text.len()
}

fn hex_digest(text: &str) -> Result<Digest, &'static str> {
    let mut digest = Digest::default();
    hex::decode_to_slice(text, &mut digest).map_err(|_| "must be 64 hexadecimal digits")?;
    Ok(digest)
}

fn unix_s(expires: &Datetime) -> Result<u64, String> {
    let wrong = || "expires must be as in 2027-01-31 or 2027-01-31T12:00:00Z".to_owned();
    let date = expires.date.ok_or_else(wrong)?;
    let (hour, minute, second) = match expires.time {
        Some(time) => (time.hour, time.minute, time.second.unwrap_or_default()),
        None => (0, 0, 0),
    };
    let offset_s = match (expires.time, expires.offset) {
        (None, _) | (_, Some(Offset::Z)) => 0,
        (_, Some(Offset::Custom { minutes })) => i64::from(minutes) * 60,
        (Some(_), None) => return Err("expires needs an offset, such as Z".to_owned()),
    };
    let local =
        DateTime::new(date.year, date.month, date.day, hour, minute, second.min(59)).map_err(|_| wrong())?;
    Ok(local.unix_duration().as_secs().saturating_add_signed(-offset_s))
}

/// What the parser found, without the text around it. A name is repeated if it is too short for a key.
fn complaint(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let said = error.message();
    let about_a_name =
        ["unknown field", "missing field", "duplicate key"].iter().any(|what| said.starts_with(what));
    let short = said.split('`').nth(1).is_none_or(|name| name.len() < 20);
    let what = if about_a_name && short { said } else { "it is malformed, unknown or of a wrong type" };
    format!("line {line}: {what}")
}
