use std::time::Duration;

/// The kinds of failure a client must tell apart. Each front maps them in one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request is malformed or does not fit the model.
    InvalidArgument,
    /// There is no such model. (Triton answers 400 here, as for every invalid argument.)
    UnknownModel,
    /// The model is known but this version is not served.
    NotFound,
    /// Nobody knows who asks: no key where one is needed, or one that is unknown or has ended.
    Unauthenticated,
    /// A label is unknown, or the policy or the caller's key refuses the request. Never retried.
    Refused,
    /// The caller's key is over its own rate: retry later.
    RateLimited,
    /// The body is over the limit.
    TooLarge,
    /// A queue or budget is full, or the agent drains: retry later.
    Unavailable,
    /// The deadline passed before the result was there.
    DeadlineExceeded,
    /// The feature is not served here.
    Unsupported,
    /// The engine or the agent failed.
    Internal,
}

/// Why a request got no result.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: ErrorCode,
    /// For the client: says what is wrong and what to do. Holds no payload and no label value of others.
    pub message: String,
    /// When to come back, for [`ErrorCode::Unavailable`] and [`ErrorCode::RateLimited`].
    pub retry_after: Option<Duration>,
    /// For [`ErrorCode::Refused`].
    pub refusal: Option<Box<Refusal>>,
}

/// The decision behind a 403: of the residency policy, or of the caller's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The id of the policy rule that decided, or a built-in one: `default-deny`, `site-jurisdiction`,
    /// `unknown-label`, `key-tenant`, `key-models`, `key-admin`.
    pub rule: String,
    /// What would be allowed, in words of the policy, for this tenant only.
    pub allowed: String,
}

impl Error {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, refusal: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// A refusal for want of room, which passes.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorCode::Unavailable, message) }
    }

    pub fn refused(refusal: Refusal) -> Self {
        let message = format!(
            "refused by rule '{}' of the residency policy; allowed: {}",
            refusal.rule, refusal.allowed
        );
        Self { refusal: Some(Box::new(refusal)), ..Self::new(ErrorCode::Refused, message) }
    }

    /// A refusal that the caller's key decides, not the policy.
    pub fn refused_by_key(refusal: Refusal) -> Self {
        let message = format!("refused by rule '{}' of the key; allowed: {}", refusal.rule, refusal.allowed);
        Self { refusal: Some(Box::new(refusal)), ..Self::new(ErrorCode::Refused, message) }
    }
}
