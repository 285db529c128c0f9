use std::time::Duration;

use axum::Json;
use axum::http::header::{ACCEPT_ENCODING, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use wire::{Error, ErrorCode, RequestId};

use crate::body::ReadError;
use crate::infer::mark_id;

/// A request that got no result, as HTTP answers it.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    error: Error,
    /// The body was not read to its end, so the connection cannot carry another request.
    pub(crate) close: bool,
    /// The body is packed in a way that is not understood here.
    encoding: bool,
    /// Of an inference.
    pub(crate) id: Option<RequestId>,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, error: Error::invalid(message), close: false, encoding: false, id: None }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.error.code
    }

    pub(crate) fn unknown_encoding() -> Self {
        Self { encoding: true, ..Error::new(ErrorCode::Unsupported, UNKNOWN_ENCODING).into() }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { status: status_of(error.code), error, close: false, encoding: false, id: None }
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Late => Self::new(StatusCode::REQUEST_TIMEOUT, ReadError::LATE),
            ReadError::Malformed => Error::invalid(ReadError::MALFORMED).into(),
            ReadError::Refused(error) => error.into(),
        }
    }
}

/// The one place where a failure becomes an HTTP status. As in Triton, an unknown model is 400 and an unserved
/// version 404.
pub(crate) fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::UnknownModel => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Refused => StatusCode::FORBIDDEN,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Unavailable | ErrorCode::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a client without a good key is asked for (RFC 6750 §3).
const CHALLENGE: &str = "Bearer realm=\"mast\"";

/// When to come back, in whole seconds as HTTP has them.
fn retry_after_seconds(error: &Error) -> u64 {
    let wait = error.retry_after.unwrap_or(Duration::from_secs(1));
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// What the headers of an error say, in whatever form its body is.
pub(crate) fn say(response: &mut Response, error: &Error, id: Option<RequestId>, close: bool) {
    let status = response.status();
    let headers = response.headers_mut();
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(error)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
    if let Some(id) = id {
        mark_id(headers, id);
    }
    if close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

pub(crate) const UNKNOWN_ENCODING: &str = "Content-Encoding is not understood: send gzip, deflate or none";

/// Characters of an error text. Some repeat what the client sent, which may be as long as a body.
const TEXT_LIMIT: usize = 1000;

pub(crate) fn clipped(text: &str) -> &str {
    text.char_indices().nth(TEXT_LIMIT).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<&'a str>,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Self { status, error, close, encoding, id } = self;
        let refusal = error.refusal.as_deref();
        let body = Body {
            error: clipped(&error.message),
            rule: refusal.map(|refusal| refusal.rule.as_str()),
            allowed: refusal.map(|refusal| refusal.allowed.as_str()),
        };
        let mut response = (status, Json(body)).into_response();
        say(&mut response, &error, id, close);
        if encoding {
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
        }
        response
    }
}

pub(crate) async fn not_found() -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "Not Found")
}

pub(crate) async fn method_not_allowed() -> Fault {
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}
