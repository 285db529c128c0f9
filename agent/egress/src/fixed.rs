//! Bytes of a fixed size: keys and signatures in base64 (RFC 4648 §4, padded); u64 in hex.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// An ed25519 public key (RFC 8032), base64 in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// An ed25519 signature (RFC 8032), base64 in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

impl PublicKey {
    /// Reads 44 characters of base64.
    ///
    /// # Errors
    /// [`Error::Fixed`] for anything but 32 bytes.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse_base64(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl Signature {
    /// Reads 88 characters of base64.
    ///
    /// # Errors
    /// [`Error::Fixed`] for anything but 64 bytes.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse_base64(text).map(Self)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

fn parse_base64<const N: usize>(text: &str) -> Result<[u8; N], Error> {
    BASE64_STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Error::Fixed { bytes: N, encoding: "base64" })
}

macro_rules! text_form {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_form!(PublicKey, Signature);

/// A random u64 as 16 lower-case hex digits: as a JSON number it would lose bits in every reader that uses doubles.
pub(crate) mod hex_u64 {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's shape")]
    pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:016x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_form = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(&text, 16) {
            Ok(number) if is_form => Ok(number),
            _ => Err(serde::de::Error::custom("not 16 lower-case hex digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_text() {
        let text = PublicKey([7; 32]).to_string();
        assert_eq!(text, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        assert_eq!(PublicKey::parse(&text).unwrap(), PublicKey([7; 32]));
        // No padding, bits left over, the alphabet of URLs, a newline.
        for bad in
            [text.replace('=', ""), text.replace("wc=", "wd="), text.replace("Bw", "-w"), format!("{text}\n")]
        {
            assert!(PublicKey::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fixed_sizes_are_enforced() {
        assert!(PublicKey::parse(&BASE64_STANDARD.encode([7; 32])).is_ok());
        assert!(PublicKey::parse(&BASE64_STANDARD.encode([7; 33])).is_err());
        assert!(Signature::parse(&BASE64_STANDARD.encode([7; 64])).is_ok());
    }
}
