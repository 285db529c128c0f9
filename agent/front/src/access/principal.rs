use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue};
use wire::{Error, ErrorCode, Refusal};

use crate::keys::{Denied, Key, Keys};
use crate::labels::TENANT;

/// Who asks: an extension of each request.
#[derive(Debug, Clone, Default)]
pub(crate) enum Principal {
    /// Where no keys are configured.
    #[default]
    Anybody,
    /// Without a good key where one is asked for; only health checks see one.
    Stranger,
    /// Who may open the control socket.
    Local,
    Holder(Holder),
}

/// Somebody with a key.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(super) key: Arc<Key>,
    pub(super) keys: Arc<Keys>,
}

impl Principal {
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Whether lists show this model.
    pub(crate) fn may_use(&self, model: &str) -> bool {
        match self {
            Self::Anybody | Self::Local => true,
            Self::Stranger => false,
            Self::Holder(holder) => holder.key.may_use(model),
        }
    }

    /// The same refusal whether there is such a model or not.
    pub(crate) fn permit(&self, model: &str) -> Result<(), Error> {
        match self {
            Self::Anybody | Self::Local => Ok(()),
            Self::Stranger => {
                Err(Error::new(ErrorCode::Unauthenticated, "a key is needed to ask for a model"))
            }
            Self::Holder(holder) => holder.permit(model),
        }
    }

    /// For each message of a stream beyond the first, which the guard has counted with the call.
    pub(crate) fn spend(&self) -> Result<(), Error> {
        match self {
            Self::Holder(holder) => holder.spend(),
            Self::Anybody | Self::Stranger | Self::Local => Ok(()),
        }
    }

    pub(crate) fn may_administer(&self) -> bool {
        match self {
            Self::Anybody | Self::Stranger => false,
            Self::Local => true,
            Self::Holder(holder) => holder.key.admin,
        }
    }

    /// Loading, unloading and whatever else changes the agent: only on the control socket or with an admin key.
    pub(crate) fn administer(&self) -> Result<(), Error> {
        if self.may_administer() {
            return Ok(());
        }
        if let Self::Holder(holder) = self {
            Denied::count(&holder.keys.denied.refused);
        }
        let allowed = "the control socket, or a key with admin = true ([listen.keys])".to_owned();
        Err(Error::refused_by_key(Refusal { rule: "key-admin".to_owned(), allowed }))
    }
}

impl From<Holder> for Principal {
    fn from(holder: Holder) -> Self {
        Self::Holder(holder)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

impl Holder {
    /// The key's tenant becomes the request's label. Another one is refused, not overwritten: the client is wrong
    /// about whose data it sends.
    pub(super) fn label(&self, headers: &mut HeaderMap) -> Result<(), Error> {
        let Some(tenant) = &self.key.tenant else { return Ok(()) };
        if headers.get_all(TENANT).iter().any(|value| value.as_bytes() != tenant.as_bytes()) {
            return Err(
                self.refused("key-tenant", format!("{TENANT}: the tenant of the key, or no such header"))
            );
        }
        if !headers.contains_key(TENANT) {
            let value = HeaderValue::from_str(tenant)
                .map_err(|_| Error::new(ErrorCode::Internal, "the tenant of the key is no header"))?;
            headers.insert(TENANT, value);
        }
        Ok(())
    }

    pub(super) fn spend(&self) -> Result<(), Error> {
        self.key.spend().map_err(|wait| {
            Denied::count(&self.keys.denied.over_rate);
            let error = Error::new(ErrorCode::RateLimited, "over the rate of the key");
            Error { retry_after: Some(wait), ..error }
        })
    }

    fn permit(&self, model: &str) -> Result<(), Error> {
        if self.key.may_use(model) {
            return Ok(());
        }
        let allowed = match self.key.models.as_deref().unwrap_or_default() {
            [] => "no model".to_owned(),
            models => format!("models {}", models.join(", ")),
        };
        Err(self.refused("key-models", allowed))
    }

    fn refused(&self, rule: &str, allowed: String) -> Error {
        Denied::count(&self.keys.denied.refused);
        Error::refused_by_key(Refusal { rule: rule.to_owned(), allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_what_without_a_key() {
        let check = |principal: Principal, uses: bool, administers: bool| {
            assert_eq!(principal.may_use("m"), uses, "{principal:?}");
            assert_eq!(principal.permit("m").is_ok(), uses, "{principal:?}");
            assert_eq!(principal.may_administer(), administers, "{principal:?}");
            assert_eq!(principal.administer().is_ok(), administers, "{principal:?}");
        };
        check(Principal::of(&Extensions::new()), true, false);
        check(Principal::Local, true, true);
        check(Principal::Stranger, false, false);
    }
}
