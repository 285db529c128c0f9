//! A refusal in the words of the protocol that the client speaks.

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use wire::Error;

use crate::fault::Fault;
use crate::{grpc, openai};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    V2,
    OpenAi,
    Grpc,
}

impl Form {
    pub(super) fn of(parts: &Parts) -> Self {
        let grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
        if parts.headers.get(CONTENT_TYPE).is_some_and(grpc) {
            Self::Grpc
        } else if parts.uri.path().starts_with("/v1/") {
            Self::OpenAi
        } else {
            Self::V2
        }
    }

    pub(super) fn answer(self, error: Error, close: bool) -> Response {
        match self {
            Self::Grpc => grpc::status::response(&error),
            Self::OpenAi => {
                let mut fault = openai::fault::Fault::from(error);
                fault.close = close;
                fault.into_response()
            }
            Self::V2 => {
                let mut fault = Fault::from(error);
                fault.close = close;
                fault.into_response()
            }
        }
    }
}
