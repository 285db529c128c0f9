//! What comes from the hub: a signed envelope, and the acknowledgement in it. The broker is not trusted.
//!
//! The signature (ed25519, RFC 8032) is over `"mast/v1" 0x00 <topic> 0x00 <body>`, where topic is the UTF-8 of the topic the
//! document was published on and body the UTF-8 of the string in `body` after JSON unescaping. Signing the topic binds a
//! document to one box and one purpose; signing the text as it stands needs no canonical JSON.

use serde::{Deserialize, Serialize};

use crate::sealed::decode;
use crate::{Error, FormatVersion, Ident, SIGNED_LIMIT_BYTES, Signature};

/// The envelope of every hub document and acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// Which of the box's configured hub keys made `sig`.
    pub key_id: Ident,
    /// Over [`signed_bytes`].
    pub sig: Signature,
    /// The document, as JSON text.
    pub body: String,
}

impl Signed {
    /// Reads an envelope. Says nothing about its signature.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode("signed envelope", bytes, SIGNED_LIMIT_BYTES)
    }

    /// What the signature is over when the envelope came on `topic`.
    #[must_use]
    pub fn signed_bytes(&self, topic: &str) -> Vec<u8> {
        signed_bytes(topic, &self.body)
    }
}

/// `"mast/v1" 0x00 topic 0x00 body`.
#[must_use]
pub fn signed_bytes(topic: &str, body: &str) -> Vec<u8> {
    [b"mast/v1\0", topic.as_bytes(), b"\0", body.as_bytes()].concat()
}

/// The body on `…/ack`: the hub has everything up to and including `upto_seq` on stable storage. Only this frees the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ack {
    /// Format version.
    pub v: FormatVersion,
    /// The stream that is acknowledged.
    #[serde(with = "crate::fixed::hex_u64")]
    pub epoch: u64,
    /// The last number of the unbroken run the hub has.
    pub upto_seq: u64,
    /// Ranges `[first, last]` missing above `upto_seq`, for people and dashboards; the box resends on its own.
    #[serde(default)]
    pub gaps: Vec<[u64; 2]>,
}

impl Ack {
    /// Reads the body of an acknowledgement.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Decode`].
    pub fn decode(body: &str) -> Result<Self, Error> {
        decode("acknowledgement", body.as_bytes(), SIGNED_LIMIT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_bytes_are_pinned() {
        assert_eq!(signed_bytes("mast/v1/a/b/c/d/ack", "{}"), b"mast/v1\0mast/v1/a/b/c/d/ack\0{}");
    }

    #[test]
    fn an_acknowledgement_is_read_strictly() {
        let check = |body: &str, wanted: bool| assert_eq!(Ack::decode(body).is_ok(), wanted, "{body}");
        check(r#"{"v":1,"epoch":"00000000000000ff","upto_seq":7,"gaps":[[9,10]]}"#, true);
        check(r#"{"v":1,"epoch":"00000000000000ff","upto_seq":7}"#, true);
        check(r#"{"v":2,"epoch":"00000000000000ff","upto_seq":7}"#, false);
        check(r#"{"v":1,"epoch":255,"upto_seq":7}"#, false);
        check(r#"{"v":1,"epoch":"ff","upto_seq":7}"#, false);
        check(r#"{"v":1,"epoch":"00000000000000FF","upto_seq":7}"#, false);
        check(r#"{"v":1,"epoch":"00000000000000ff","upto_seq":-1}"#, false);
        check(r#"{"v":1,"epoch":"00000000000000ff","upto_seq":7,"free":true}"#, false);
    }
}
