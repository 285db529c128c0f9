//! The record: what is committed to the outbox, numbered, and sent.
//!
//! JSON: `{"v":1,"body":{"interval":{…}}}`, one member in `body`, named after the kind. At most
//! [`RECORD_LIMIT_BYTES`]. An unknown member or kind is refused: a record is made and read by the same agent, and what it does
//! not know must not pass through it.

use serde::{Deserialize, Serialize};

use crate::sealed::{Sealed, decode};
use crate::{Counters, Egress, Error, FormatVersion, Ident, RECORD_LIMIT_BYTES, Rollup};

/// One numbered message of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Format version.
    pub v: FormatVersion,
    /// What it says.
    pub body: Body,
}

/// The kinds of record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Body {
    /// What one model did in one interval.
    Interval(Interval),
    /// How the agent was at the end of one interval.
    Agent(Agent),
    /// What stands for records that were folded at the quota.
    Rollup(Rollup),
    /// What stands for records that are lost.
    Gap(Gap),
}

/// What one model did in one interval, on one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The model.
    pub model: Ident,
    /// Its version.
    pub version: Ident,
    /// What really computed.
    pub provider: Provider,
    /// Wall clock at the start, ms since the Unix epoch, as good as `clock` says.
    pub start_unix_ms: u64,
    /// Wall clock at the end, ms since the Unix epoch.
    pub end_unix_ms: u64,
    /// How far the wall clock can be believed.
    pub clock: ClockState,
    /// Length by the monotonic clock, ms. Can differ from end minus start when the wall clock was set.
    pub duration_ms: u64,
    /// Sums over the interval.
    pub counters: Counters,
}

/// How the agent was at the end of one interval. Gauges only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Wall clock at the start, ms since the Unix epoch.
    pub start_unix_ms: u64,
    /// Wall clock at the end, ms since the Unix epoch.
    pub end_unix_ms: u64,
    /// How far the wall clock can be believed.
    pub clock: ClockState,
    /// Length by the monotonic clock, ms.
    pub duration_ms: u64,
    /// Time since the agent started, ms.
    pub uptime_ms: u64,
    /// Memory the process holds, bytes; absent where the kernel does not tell.
    pub resident_bytes: Option<u64>,
    /// Records in the outbox that no hub has acknowledged.
    pub outbox_records: u64,
    /// What the outbox takes on disk, bytes.
    pub outbox_bytes: u64,
    /// The outbox's quota, bytes.
    pub outbox_limit_bytes: u64,
    /// Models that are ready.
    pub models_ready: u64,
}

/// Records that are lost: nothing is known of them but their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// The first number lost.
    pub first_seq: u64,
    /// The last number lost.
    pub last_seq: u64,
    /// Why.
    pub reason: GapReason,
}

/// Why records are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The disk gave back other bytes than were written (checksum), or fewer.
    Damaged,
    /// The bytes are whole and are no record this agent knows.
    Unreadable,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// TensorRT on an NVIDIA device.
    TensorRt,
    /// CUDA on an NVIDIA device.
    Cuda,
    /// Compute shaders.
    Wgpu,
    /// The processor.
    Cpu,
}

/// How far a box believes its wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockState {
    /// The kernel says that it is synchronised.
    Synchronised,
    /// It is not: times may be wrong by any amount, durations are right.
    Unsynchronised,
    /// The kernel would not say.
    Unknown,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Decode`], or [`Error::Inconsistent`] for a range that ends before it starts.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let record: Self = decode(Self::WHAT, bytes, RECORD_LIMIT_BYTES)?;
        if record.explains().any(|[first, last]| first > last) {
            return Err(Error::Inconsistent {
                what: Self::WHAT,
                rule: "a range does not end before it starts",
            });
        }
        Ok(record)
    }

    /// The ranges of other numbers that this record explains, `[first, last]` each: those folded into a roll-up, those lost in
    /// a gap. A record that was received under a number in such a range of a roll-up is in the roll-up's sums.
    pub fn explains(&self) -> impl Iterator<Item = [u64; 2]> {
        let (range, earlier) = match &self.body {
            Body::Rollup(rollup) => (Some([rollup.first_seq, rollup.last_seq]), rollup.earlier.as_slice()),
            Body::Gap(gap) => (Some([gap.first_seq, gap.last_seq]), &[][..]),
            Body::Interval(_) | Body::Agent(_) => (None, &[][..]),
        };
        earlier.iter().copied().chain(range)
    }
}

impl From<Body> for Record {
    fn from(body: Body) -> Self {
        Self { v: FormatVersion, body }
    }
}

macro_rules! kinds {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Record {
            fn from(body: $kind) -> Self {
                Self { v: FormatVersion, body: Body::$kind(body) }
            }
        }
    )*};
}
kinds!(Interval, Agent, Rollup, Gap);

impl Sealed for Record {
    const WHAT: &'static str = "record";
}

impl Egress for Record {
    const LIMIT_BYTES: usize = RECORD_LIMIT_BYTES;
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: &str = r#"{"v":1,"body":{"interval":{"model":"efficientnet-lite0","version":"1","provider":"tensorrt","start_unix_ms":1,"end_unix_ms":2,"clock":"synchronised","duration_ms":1,"counters":{"requests":1,"failed":{"engine":2},"rejected":{"busy":3},"inferences":1,"batches":1,"queue_us":1,"batch_us":1,"compute_us":1,"compute":[1,0,0,0,0,0,0,0,0,0,0,0,0,0]}}}}"#;

    #[test]
    fn a_record_is_read_strictly() {
        let check = |text: String, wanted: bool| {
            assert_eq!(Record::decode(text.as_bytes()).is_ok(), wanted, "{text}")
        };
        check(INTERVAL.to_owned(), true);
        check(INTERVAL.replace(r#""v":1"#, r#""v":2"#), false);
        check(INTERVAL.replace("efficientnet-lite0", "A name with words"), false);
        check(INTERVAL.replace("tensorrt", "abacus"), false);
        check(INTERVAL.replace(r#""duration_ms":1"#, r#""duration_ms":-1"#), false);
        check(INTERVAL.replace(r#""duration_ms":1"#, r#""duration_ms":1,"note":"text""#), false);
        check(INTERVAL.replace(r#""requests":1"#, r#""requests":1,"note":"text""#), false);
        check(INTERVAL.replace(r#""engine":2"#, r#""text":2"#), false);
        check(INTERVAL.replace("[1,0", "[1,0,0"), false);
        check(INTERVAL.replace("interval", "note"), false);
        check(INTERVAL.replacen('{', r#"{"note":"text","#, 1), false);
        check(format!("{INTERVAL} text"), false);
        check(" ".repeat(RECORD_LIMIT_BYTES + 1), false);
    }

    #[test]
    fn what_is_read_is_written_the_same() {
        let record = Record::decode(INTERVAL.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(record.encode().unwrap()).unwrap(), INTERVAL);
        assert_eq!(record.explains().count(), 0);
    }
}
