use std::time::Instant;

use axum::response::Response;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Status};
use wire::{Error, ErrorCode};

use crate::body::ReadError;
use crate::fault::clipped;

/// The one place where a failure becomes a gRPC status: Triton's codes (docs/specs/wire.md), which an unknown model
/// and a deadline that passed have in common with other errors.
pub(super) fn of(error: &Error) -> Status {
    let code = match error.code {
        ErrorCode::InvalidArgument | ErrorCode::UnknownModel => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::Refused => Code::PermissionDenied,
        ErrorCode::RateLimited | ErrorCode::TooLarge => Code::ResourceExhausted,
        ErrorCode::Unavailable | ErrorCode::DeadlineExceeded => Code::Unavailable,
        ErrorCode::Unsupported => Code::Unimplemented,
        ErrorCode::Internal => Code::Internal,
    };
    let mut status = Status::new(code, clipped(&error.message));
    let metadata = status.metadata_mut();
    let mut say = |name: &'static str, text: &str| {
        if let Ok(value) = AsciiMetadataValue::try_from(text) {
            metadata.insert(name, value);
        }
    };
    if let Some(refusal) = error.refusal.as_deref() {
        say("mast-rule", &refusal.rule);
        say("mast-allowed", &refusal.allowed);
    }
    if let Some(wait) = error.retry_after {
        // When to try again, for clients that retry by themselves (gRFC A6).
        say("grpc-retry-pushback-ms", &wait.as_millis().to_string());
    }
    status
}

/// A call that ended before it had anything to say.
pub(crate) fn response(error: &Error) -> Response {
    of(error).into_http()
}

/// A message that could not be read, from a client that waits `until`.
pub(super) fn unread(error: ReadError, until: Option<Instant>) -> Error {
    match error {
        ReadError::Late if until.is_some_and(|until| until <= Instant::now()) => {
            Error::new(ErrorCode::DeadlineExceeded, "Request timeout expired")
        }
        ReadError::Late => Error::new(ErrorCode::DeadlineExceeded, ReadError::LATE),
        ReadError::Malformed => Error::invalid(ReadError::MALFORMED),
        ReadError::Refused(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::Refusal;

    use super::*;

    #[test]
    fn codes_are_tritons() {
        let check = |code, expected| assert_eq!(of(&Error::new(code, "x")).code(), expected, "{code:?}");
        check(ErrorCode::InvalidArgument, Code::InvalidArgument);
        check(ErrorCode::UnknownModel, Code::InvalidArgument);
        check(ErrorCode::NotFound, Code::NotFound);
        check(ErrorCode::Unauthenticated, Code::Unauthenticated);
        check(ErrorCode::Refused, Code::PermissionDenied);
        check(ErrorCode::RateLimited, Code::ResourceExhausted);
        check(ErrorCode::TooLarge, Code::ResourceExhausted);
        check(ErrorCode::Unavailable, Code::Unavailable);
        check(ErrorCode::DeadlineExceeded, Code::Unavailable);
        check(ErrorCode::Unsupported, Code::Unimplemented);
        check(ErrorCode::Internal, Code::Internal);
    }

    #[test]
    fn what_helps_the_client_is_in_the_trailers() {
        let refusal = Refusal { rule: "r1".to_owned(), allowed: "nothing".to_owned() };
        let refused = of(&Error::refused(refusal));
        assert_eq!(refused.metadata().get("mast-rule").unwrap(), "r1");
        assert_eq!(refused.metadata().get("mast-allowed").unwrap(), "nothing");
        let later = of(&Error::unavailable("later", Duration::from_secs(2)));
        assert_eq!(later.metadata().get("grpc-retry-pushback-ms").unwrap(), "2000");
        assert_eq!(of(&Error::invalid("y".repeat(5000))).message().len(), 1000);
    }
}
