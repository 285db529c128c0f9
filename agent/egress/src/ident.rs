//! [`Ident`], the only free name that leaves a site.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A name of `[a-z0-9._-]{1,64}`: of a site, a box, a model, a version, a key.
///
/// Made only from configuration, signed documents or a device probe, never from a request or an error. The form keeps
/// it a single MQTT topic level and a single JSON string without escapes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ident(String);

impl Ident {
    /// The longest identifier, in bytes.
    pub const LIMIT_BYTES: usize = 64;

    /// Takes `name` as it is.
    ///
    /// # Errors
    /// [`Error::Ident`] if it is empty, longer than 64 bytes or has any other character.
    pub fn new(name: &str) -> Result<Self, Error> {
        if name.is_empty() || name.len() > Self::LIMIT_BYTES || !name.bytes().all(is_allowed) {
            return Err(Error::Ident { length: name.len() });
        }
        Ok(Self(name.to_owned()))
    }

    /// An identifier for a name that may be none, such as a model's folder.
    ///
    /// A name that is one stays as it is. Any other is lower-cased, its other characters become `-`, it is cut, and
    /// `-` with 8 hex digits of the FNV-1a hash of the original is appended: the same name gives the same identifier on every
    /// box, and two names that differ only in what was replaced stay apart.
    #[must_use]
    pub fn derive(name: &str) -> Self {
        if let Ok(ident) = Self::new(name) {
            return ident;
        }
        let hash = fnv1a(name.as_bytes());
        let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
        let mut text: String = name
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if u8::try_from(c).is_ok_and(is_allowed) { c } else { '-' })
            .take(Self::LIMIT_BYTES - 9)
            .collect();
        text.push_str(&format!("-{folded:08x}"));
        Self(text)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')
}

/// FNV-1a, 64 bits (draft-eastlake-fnv). Stable for ever: identifiers depend on it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl TryFrom<String> for Ident {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        Self::new(&name)
    }
}

impl From<Ident> for String {
    fn from(ident: Ident) -> Self {
        ident.0
    }
}

impl FromStr for Ident {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::new(name)
    }
}

impl AsRef<str> for Ident {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ident({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_stated_form_is_taken() {
        let check = |name: &str, wanted: bool| assert_eq!(Ident::new(name).is_ok(), wanted, "{name:?}");
        check("efficientnet-lite0", true);
        check("a", true);
        check("1.0_rc-2", true);
        check(&"a".repeat(64), true);
        check(&"a".repeat(65), false);
        check("", false);
        check("Munich", false);
        check("a/b", false);
        check("a+", false);
        check("#", false);
        check("a b", false);
        check("köln", false);
        check("a\u{0}", false);
    }

    #[test]
    fn json_is_checked_on_the_way_in() {
        assert_eq!(serde_json::to_string(&Ident::derive("box-1")).unwrap(), "\"box-1\"");
        assert!(serde_json::from_str::<Ident>("\"box-1\"").is_ok());
        assert!(serde_json::from_str::<Ident>("\"Box 1\"").is_err());
    }

    #[test]
    fn derived_names_are_pinned() {
        // Changing any of these renames models at every hub.
        let check = |name: &str, wanted: &str| assert_eq!(Ident::derive(name).as_str(), wanted);
        check("resnet50", "resnet50");
        check("", "-4fd0bfc1");
        check("ResNet 50", "resnet-50-60e3a4b9");
        check("ResNet/50", "resnet-50-03e9c46c");
    }

    proptest! {
        #[test]
        fn whatever_is_derived_is_an_identifier(name in ".{0,200}") {
            let ident = Ident::derive(&name);
            prop_assert!(Ident::new(ident.as_str()).is_ok());
            prop_assert_eq!(Ident::derive(&name), ident);
        }
    }
}
