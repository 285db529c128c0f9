//! The batch: consecutive records in one MQTT message on `…/m/metrics`.

use serde::{Deserialize, Serialize};

use crate::sealed::{Sealed, decode};
use crate::{BATCH_LIMIT_BYTES, Egress, Error, FormatVersion, Record};

/// Consecutive records of one stream. The box they are of is the topic's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Format version.
    pub v: FormatVersion,
    /// The outbox stream.
    #[serde(with = "crate::fixed::hex_u64")]
    pub epoch: u64,
    /// The lowest number this box still waits for an acknowledgement of. What is below and has not come was acknowledged
    /// before, folded (a roll-up with a higher number says so) or lost, and will not come under its own number again.
    pub oldest_seq: u64,
    /// The number of the first record.
    pub first_seq: u64,
    /// The number of the last record.
    pub last_seq: u64,
    /// How the records are written.
    pub codec: Codec,
    /// The records, in order.
    pub records: Vec<Sequenced>,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As JSON values.
    Json,
}

/// A record with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequenced {
    /// Its number in the stream.
    pub seq: u64,
    /// The record.
    pub record: Record,
}

impl Batch {
    /// A batch of `records`, which must be in order; `None` if there are none.
    #[must_use]
    pub fn new(epoch: u64, oldest_seq: u64, records: Vec<Sequenced>) -> Option<Self> {
        let first_seq = records.first()?.seq;
        let last_seq = records.last()?.seq;
        Some(Self {
            v: FormatVersion,
            epoch,
            oldest_seq: oldest_seq.min(first_seq),
            first_seq,
            last_seq,
            codec: Codec::Json,
            records,
        })
    }

    /// Reads a batch, as a hub does.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode(Self::WHAT, bytes, BATCH_LIMIT_BYTES)
    }
}

impl Sealed for Batch {
    const WHAT: &'static str = "batch";
}

impl Egress for Batch {
    const LIMIT_BYTES: usize = BATCH_LIMIT_BYTES;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BATCH_LIMIT_RECORDS, Gap, GapReason, RECORD_LIMIT_BYTES};

    #[test]
    fn a_batch_is_what_the_spec_shows() {
        let record = Gap { first_seq: 7, last_seq: 9, reason: GapReason::Damaged }.into();
        let batch = Batch::new(255, 3, vec![Sequenced { seq: 12, record }]).unwrap();
        let bytes = batch.encode().unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"v":1,"epoch":"00000000000000ff","oldest_seq":3,"first_seq":12,"last_seq":12,"codec":"json","records":[{"seq":12,"record":{"v":1,"body":{"gap":{"first_seq":7,"last_seq":9,"reason":"damaged"}}}}]}"#
        );
        assert_eq!(Batch::decode(&bytes).unwrap(), batch);
        assert!(Batch::new(255, 3, Vec::new()).is_none());
    }

    #[test]
    fn limits_agree_with_each_other() {
        // A batch of one record of the greatest length must fit.
        const { assert!(RECORD_LIMIT_BYTES + 1024 < BATCH_LIMIT_BYTES) };
        const { assert!(BATCH_LIMIT_RECORDS > 0) };
        assert!(matches!(Batch::decode(&vec![b' '; BATCH_LIMIT_BYTES + 1]), Err(Error::TooLong { .. })));
    }
}
