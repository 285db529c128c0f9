use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use wire::{Error, ErrorCode, RequestId};

use crate::body::ReadError;
use crate::fault::{clipped, say, status_of};

/// A request that got no result, in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Debug)]
pub(crate) struct Fault {
    status: StatusCode,
    error: Box<Error>,
    kind: &'static str,
    /// The member of the request that is wrong.
    param: Option<&'static str>,
    code: Option<&'static str>,
    pub(crate) close: bool,
    pub(crate) id: Option<RequestId>,
}

impl Fault {
    /// The one place where a failure becomes OpenAI's words. Unlike in Triton's protocol, an unknown model is 404.
    pub(crate) fn of(error: Error, param: impl Into<Option<&'static str>>) -> Self {
        let (kind, code) = match error.code {
            ErrorCode::InvalidArgument => ("invalid_request_error", None),
            ErrorCode::UnknownModel | ErrorCode::NotFound => {
                ("invalid_request_error", Some("model_not_found"))
            }
            ErrorCode::Unauthenticated => ("invalid_request_error", Some("invalid_api_key")),
            ErrorCode::Refused => ("permission_error", Some("refused_by_policy")),
            ErrorCode::RateLimited => ("requests", Some("rate_limit_exceeded")),
            ErrorCode::TooLarge => ("invalid_request_error", Some("request_too_large")),
            ErrorCode::Unavailable => ("server_error", Some("overloaded")),
            ErrorCode::DeadlineExceeded => ("server_error", Some("timeout")),
            ErrorCode::Unsupported => ("invalid_request_error", Some("unsupported")),
            ErrorCode::Internal => ("server_error", None),
        };
        let status = match error.code {
            ErrorCode::UnknownModel => StatusCode::NOT_FOUND,
            // A gateway's "not implemented" would be tried again.
            ErrorCode::Unsupported => StatusCode::BAD_REQUEST,
            code => status_of(code),
        };
        Self { status, error: Box::new(error), kind, param: param.into(), code, close: false, id: None }
    }

    pub(crate) fn invalid(param: &'static str, message: impl Into<String>) -> Self {
        Self::of(Error::invalid(message), param)
    }

    fn with(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code: Some(code), ..Self::of(Error::invalid(message), None) }
    }

    pub(crate) fn wire_code(&self) -> ErrorCode {
        self.error.code
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::of(error, None)
    }
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Late => {
                Self::with(StatusCode::REQUEST_TIMEOUT, "request_timeout", ReadError::LATE.to_owned())
            }
            ReadError::Malformed => Error::invalid(ReadError::MALFORMED).into(),
            ReadError::Refused(error) => error.into(),
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: Words<'a>,
}

#[derive(Serialize)]
struct Words<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<&'static str>,
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let Self { status, error, kind, param, code, close, id } = self;
        let body = Body { error: Words { message: clipped(&error.message), kind, param, code } };
        let mut response = (status, Json(body)).into_response();
        say(&mut response, &error, id, close);
        response
    }
}

pub(crate) async fn unknown_url(method: Method, uri: Uri) -> Fault {
    let message = format!("Unknown request URL: {method} /v1{}", uri.path());
    Fault::with(StatusCode::NOT_FOUND, "unknown_url", message)
}

pub(crate) async fn wrong_method(method: Method, uri: Uri) -> Fault {
    let message = format!("Not allowed to {method} on /v1{}", uri.path());
    Fault::with(StatusCode::METHOD_NOT_ALLOWED, "method_not_supported", message)
}
