//! ModelInfer: one message in, one out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use wire::{Error, ErrorCode};

use super::encode::{self, Form};
use super::message::{self, Incoming};
use super::status::unread;
use super::{Grpc, request, status};
use crate::app::App;
use crate::body::{Budget, Encoding, Reader, over_limit};
use crate::call::{Answer, Caller};
use crate::frames::Frames;
use crate::infer::{mark, mark_id};
use crate::trace::{Parent, Trace};

pub(super) const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const TIMEOUT: &str = "grpc-timeout";
pub(super) const ENCODING: &str = "grpc-encoding";

pub(super) async fn model_infer(State(grpc): State<Grpc>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut trace = Trace::begin(grpc.app.traces.as_ref(), "grpc", Parent::of(&parts.headers));
    let id = trace.id();
    let answer = answer(&grpc.app, &parts, body, &mut trace).await;
    trace.ended(answer.as_ref().err().map(|error| error.code));
    answer.unwrap_or_else(|error| {
        let mut response = status::response(&error);
        mark_id(response.headers_mut(), id);
        response
    })
}

async fn answer(app: &Arc<App>, parts: &Parts, body: Body, trace: &mut Trace) -> Result<Response, Error> {
    let (caller, until, encoding) = caller(app, parts)?;
    let mut reader = Reader::new(body, u64::MAX, app.body_time);
    reader.renew(Some(deadline(app, until)));
    let missing = || Error::invalid("the call has no message");
    let prefix = message::next(&mut reader, encoding)
        .await
        .map_err(|error| unread(error, until))?
        .ok_or_else(missing)?;
    let budget = reserve(app, prefix.length)?;
    let mut incoming = Incoming::new(&mut reader, prefix);
    let mut id = String::new();
    let (call, asked) = request::read(app, caller, &mut incoming, budget, &mut id)
        .await
        .map_err(|error| unread(error, until))?;
    trace.arrived(reader.arrived());
    let answer = call.submit(app, asked.decoded, trace).await?.answer(app, trace).await?;
    let frames = encode::reply(&answer, Form::ModelInferResponse, asked.marks_final)?;
    Ok(respond(frames, &answer))
}

/// Who calls, until when, and how messages may be packed, before any is read.
pub(super) fn caller(app: &App, parts: &Parts) -> Result<(Caller, Option<Instant>, Encoding), Error> {
    let until = timeout(&parts.headers)?.and_then(|timeout| Instant::now().checked_add(timeout));
    let caller = Caller::of(app, parts)?.until(until);
    Ok((caller, until, encoding(&parts.headers)?))
}

/// `grpc-encoding`, by which a message is packed when its flag says so.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, Error> {
    let Some(name) = headers.get(ENCODING) else { return Ok(Encoding::Identity) };
    Encoding::named(name.as_bytes()).ok_or_else(|| {
        Error::new(ErrorCode::Unsupported, "grpc-encoding is none of identity, gzip and deflate")
    })
}

/// When a message that begins now must have arrived.
pub(super) fn deadline(app: &App, until: Option<Instant>) -> tokio::time::Instant {
    let arrived = Instant::now() + app.body_time;
    until.map_or(arrived, |until| until.min(arrived)).into()
}

/// Room for a message that has not been read.
pub(super) fn reserve(app: &App, length: u64) -> Result<Budget, Error> {
    if length > app.body_limit {
        return Err(over_limit(app.body_limit));
    }
    Budget::reserve(&app.serve, length)
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let malformed = || Error::invalid("grpc-timeout is not at most eight digits and one of H M S m u n");
    let text = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(malformed)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let count: u64 = digits.parse().map_err(|_| malformed())?;
    let timeout = match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(malformed()),
    };
    Ok(Some(timeout))
}

fn respond(frames: Vec<Bytes>, answer: &Answer) -> Response {
    let trailers = async {
        let mut trailers = HeaderMap::new();
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    let mut response = Response::new(Body::new(Frames::new(frames).with_trailers(trailers)));
    response.headers_mut().insert(CONTENT_TYPE, APPLICATION_GRPC);
    mark(response.headers_mut(), answer.id, &answer.part);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_units() {
        let check = |text: &str, expected: Option<Duration>| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, text.parse().unwrap());
            assert_eq!(timeout(&headers).ok().flatten(), expected, "{text}");
        };
        check("2H", Some(Duration::from_secs(7200)));
        check("3M", Some(Duration::from_secs(180)));
        check("99999999S", Some(Duration::from_secs(99_999_999)));
        check("150m", Some(Duration::from_millis(150)));
        check("10000000u", Some(Duration::from_secs(10)));
        check("0n", Some(Duration::ZERO));
        for wrong in ["", "S", "5", "123456789S", "-1S", "1.5S", "1 S", "1s", "ö"] {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_bytes(wrong.as_bytes()).unwrap());
            assert!(timeout(&headers).is_err(), "{wrong}");
        }
    }
}
