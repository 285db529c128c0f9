use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::StatusCode;
use axum::http::request::Parts;

use crate::access::Principal;
use crate::fault::Fault;

/// The model of a path, which the caller may use, and the version where the path has one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) model: String,
    pub(crate) version: Option<u64>,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Fault> {
        let malformed = || Fault::new(StatusCode::NOT_FOUND, "Not Found");
        let parameters = RawPathParams::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        let mut target = Self { model: String::new(), version: None };
        for (name, value) in &parameters {
            match name {
                "model" => value.clone_into(&mut target.model),
                // As in Triton, a version is digits and anything else is no path of the protocol.
                "version" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                    target.version = Some(value.parse().map_err(|_| malformed())?);
                }
                _ => return Err(malformed()),
            }
        }
        Principal::of(&parts.extensions).permit(&target.model)?;
        Ok(target)
    }
}
