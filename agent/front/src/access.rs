//! Who asks, and what their key lets them do. With `[listen.keys]` every request on a TCP listener but the health
//! checks needs a key; without, everybody may do everything but administer.
//!
//! [`guard`] stands before every route and judges by headers alone, before the body is read: the key, its end, its
//! tenant, its rate. Routes ask the [`Principal`] about the model and about administration. Both know nothing of the
//! protocol: gRPC's metadata are the same headers, and [`refusal`] words the answer for each.

mod principal;
pub(crate) mod refusal;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, EXPECT};
use axum::http::{Extensions, HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use wire::{Error, ErrorCode};

use crate::body::Reader;
use crate::clock::{has_ended, now_unix_s};
use crate::keys::{Denied, Key, Keys};
use crate::tls::Peer;
use principal::Holder;
pub(crate) use principal::Principal;
use refusal::Form;

const MAST_KEY: &str = "mast-key";

/// What anybody may ask: whether the agent lives and is ready. Whoever has no key is a [`Principal::Stranger`] there, who
/// is told nothing of a model.
const OPEN: [&str; 6] = [
    "/v2/health/live",
    "/v2/health/ready",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Lets a request through that has a good key, with its [`Principal`], its tenant as the label, and without the key
/// itself, so that nothing behind can log it.
pub(crate) async fn guard(State(keys): State<Arc<Keys>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if OPEN.contains(&parts.uri.path()) {
        let key = identify(&keys, &parts.headers, parts.extensions.get::<Peer>()).ok();
        hide(&mut parts.headers);
        let principal = key.map_or(Principal::Stranger, |key| Holder { key, keys }.into());
        parts.extensions.insert(principal);
        return next.run(Request::from_parts(parts, body)).await;
    }
    match admit(&keys, &mut parts.headers, &mut parts.extensions) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => {
            let asked = parts.headers.contains_key(EXPECT);
            // Nothing of it is kept; only what has arrived is taken, so that the connection can go on.
            let mut reader = Reader::new(body, u64::MAX, Duration::ZERO);
            let close = asked || !reader.drain_arrived().await;
            Form::of(&parts).answer(error, close)
        }
    }
}

/// The judgement of [`guard`].
pub(crate) fn admit(
    keys: &Arc<Keys>,
    headers: &mut HeaderMap,
    extensions: &mut Extensions,
) -> Result<(), Error> {
    let key = identify(keys, headers, extensions.get::<Peer>());
    hide(headers);
    let key = key.inspect_err(|_| Denied::count(&keys.denied.unauthenticated))?;
    let holder = Holder { key, keys: Arc::clone(keys) };
    holder.label(headers)?;
    holder.spend()?;
    extensions.insert(Principal::from(holder));
    Ok(())
}

fn hide(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    headers.remove(MAST_KEY);
}

/// A key that was sent decides, also against a certificate.
fn identify(keys: &Keys, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Arc<Key>, Error> {
    let unknown = || Error::new(ErrorCode::Unauthenticated, "the key is not known here, or has ended");
    let key = match sent(headers)? {
        Some(text) => keys.by_text(text).ok_or_else(unknown)?,
        None => {
            let certificate = peer.and_then(|peer| peer.certificate);
            certificate.and_then(|certificate| keys.by_certificate(&certificate)).ok_or_else(|| {
                let text = "a key is needed: send Authorization: Bearer KEY, or Mast-Key: KEY";
                Error::new(ErrorCode::Unauthenticated, text)
            })?
        }
    };
    if key.expires_unix_s.is_some_and(|end| has_ended(end, now_unix_s())) {
        return Err(unknown());
    }
    Ok(key)
}

/// The key in the headers. `Mast-Key` goes before `Authorization`, which a proxy may use for itself.
fn sent(headers: &HeaderMap) -> Result<Option<&[u8]>, Error> {
    let once = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(HeaderValue::as_bytes)),
            _ => Err(Error::new(ErrorCode::Unauthenticated, "the key is given more than once")),
        }
    };
    if let Some(key) = once(MAST_KEY)? {
        return Ok(Some(key));
    }
    let Some(value) = once(AUTHORIZATION.as_str())? else { return Ok(None) };
    match value.split_at_checked(7) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(Some(key.trim_ascii())),
        _ => Err(Error::new(ErrorCode::Unauthenticated, "Authorization must be as in: Bearer KEY")),
    }
}
