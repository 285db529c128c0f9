//! Which acknowledgements are believed.

use std::collections::BTreeMap;
use std::fmt;

use ed25519_dalek::VerifyingKey;
use egress::{Ack, Ident, PublicKey, Signed};

use crate::Error;

/// Reads what arrives on `…/ack`.
#[derive(Debug)]
pub(super) struct AckReader {
    topic: String,
    epoch: u64,
    keys: BTreeMap<Ident, VerifyingKey>,
}

/// Why an acknowledgement is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadAck {
    Malformed,
    UnknownKey,
    BadSignature,
    OtherEpoch,
}

impl fmt::Display for BadAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown key",
            Self::BadSignature => "bad signature",
            Self::OtherEpoch => "other epoch",
        })
    }
}

impl AckReader {
    /// Believes those that one of `keys` signed for `topic`; any that are well formed if there are no keys.
    pub(super) fn new(topic: String, epoch: u64, keys: &BTreeMap<Ident, PublicKey>) -> Result<Self, Error> {
        Ok(Self { topic, epoch, keys: verifying_keys(keys)? })
    }

    /// The last number the hub has.
    pub(super) fn read(&self, payload: &[u8]) -> Result<u64, BadAck> {
        let signed = Signed::decode(payload).map_err(|_| BadAck::Malformed)?;
        if !self.keys.is_empty() {
            let key = self.keys.get(&signed.key_id).ok_or(BadAck::UnknownKey)?;
            let signature = ed25519_dalek::Signature::from_bytes(&signed.sig.0);
            key.verify_strict(&signed.signed_bytes(&self.topic), &signature)
                .map_err(|_| BadAck::BadSignature)?;
        }
        let ack = Ack::decode(&signed.body).map_err(|_| BadAck::Malformed)?;
        if ack.epoch == self.epoch { Ok(ack.upto_seq) } else { Err(BadAck::OtherEpoch) }
    }
}

/// The keys as points of the curve.
pub(crate) fn verifying_keys(
    keys: &BTreeMap<Ident, PublicKey>,
) -> Result<BTreeMap<Ident, VerifyingKey>, Error> {
    keys.iter()
        .map(|(id, key)| match VerifyingKey::from_bytes(&key.0) {
            Ok(point) if !point.is_weak() => Ok((id.clone(), point)),
            _ => Err(Error::Config { key: "keys", problem: "not an ed25519 public key" }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};
    use egress::{Signature, signed_bytes};

    use super::*;

    const TOPIC: &str = "mast/v1/acme/eu/muc/box-1/ack";
    const BODY: &str = r#"{"v":1,"epoch":"00000000000000ff","upto_seq":7,"gaps":[]}"#;

    fn envelope(key_id: &str, key: &SigningKey, topic: &str, signed: &str, body: &str) -> Vec<u8> {
        let sig = Signature(key.sign(&signed_bytes(topic, signed)).to_bytes());
        let key_id = Ident::new(key_id).unwrap();
        serde_json::to_vec(&Signed { key_id, sig, body: body.to_owned() }).unwrap()
    }

    #[test]
    fn only_a_signed_acknowledgement_of_this_stream_is_believed() {
        let (hub, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let keys = [(Ident::new("hub-1").unwrap(), PublicKey(hub.verifying_key().to_bytes()))].into();
        let reader = AckReader::new(TOPIC.to_owned(), 0xff, &keys).unwrap();
        let check = |payload: &[u8], wanted| assert_eq!(reader.read(payload), wanted);
        check(&envelope("hub-1", &hub, TOPIC, BODY, BODY), Ok(7));
        check(&envelope("hub-1", &other, TOPIC, BODY, BODY), Err(BadAck::BadSignature));
        check(&envelope("hub-2", &hub, TOPIC, BODY, BODY), Err(BadAck::UnknownKey));
        let neighbour = "mast/v1/acme/eu/muc/box-2/ack";
        check(&envelope("hub-1", &hub, neighbour, BODY, BODY), Err(BadAck::BadSignature));
        let more = BODY.replace('7', "9");
        check(&envelope("hub-1", &hub, TOPIC, BODY, &more), Err(BadAck::BadSignature));
        let old = BODY.replace("ff", "fe");
        check(&envelope("hub-1", &hub, TOPIC, &old, &old), Err(BadAck::OtherEpoch));
        check(&envelope("hub-1", &hub, TOPIC, "{}", "{}"), Err(BadAck::Malformed));
        check(BODY.as_bytes(), Err(BadAck::Malformed));
        check(b"\xff", Err(BadAck::Malformed));
        check(&vec![b' '; egress::SIGNED_LIMIT_BYTES + 1], Err(BadAck::Malformed));
    }

    #[test]
    fn a_key_that_is_no_point_of_the_curve_is_a_configuration_error() {
        // 2 has no x on the curve; 0 with x = 0.. is the weak point of order 4.
        for bytes in [
            {
                let mut y = [0; 32];
                y[0] = 2;
                y
            },
            [0; 32],
        ] {
            let keys = [(Ident::new("hub-1").unwrap(), PublicKey(bytes))].into();
            assert!(matches!(verifying_keys(&keys), Err(Error::Config { key: "keys", .. })), "{bytes:?}");
        }
    }
}
