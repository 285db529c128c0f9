//! The protocol of the socket between agent and uplink, version 1.
//!
//! A frame is its length as u32, little endian, then so many bytes of JSON, at most [`FRAME_LIMIT_BYTES`]. The JSON has one
//! member, named after the kind. An unknown kind or member is an error: both ends are of the same binary.
//!
//! Parent to child: `config` once and first, then `records` in answer to each `take`, and `shutdown` once and last.
//! Child to parent: `take` (one at a time), `acknowledged`, `rejected`, `state`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::{Error, UplinkConfig, UplinkState};

/// The longest frame, in bytes of JSON.
pub(crate) const FRAME_LIMIT_BYTES: usize = 1024 * 1024;

/// Parent to child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ToUplink {
    /// What to connect to, and as whom.
    Config(Box<UplinkConfig>),
    /// The answer to `take`; empty only during shutdown, when there are no more.
    Records(Vec<StoredRecord>),
    /// Send what is pending, say goodbye, and end within the budget.
    Shutdown {
        /// In ms.
        budget_ms: u64,
    },
}

/// Child to parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum FromUplink {
    /// Asks for records, in order.
    Take {
        /// The lowest number wanted; 0 for the oldest there is.
        from_seq: u64,
        /// At most so many.
        limit_records: usize,
        /// At most so many bytes together, but at least one record.
        limit_bytes: usize,
    },
    /// The hub has everything up to here.
    Acknowledged {
        /// Inclusive.
        upto_seq: u64,
    },
    /// The bytes stored under this number are no record and were not sent.
    Rejected {
        /// Its number.
        seq: u64,
    },
    /// How the way out is.
    State(Box<UplinkState>),
}

/// A record as it lies in the outbox.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredRecord {
    pub(crate) seq: u64,
    /// Base64: what the disk gave back need not be text.
    #[serde(serialize_with = "as_base64", deserialize_with = "from_base64")]
    pub(crate) bytes: Vec<u8>,
}

fn as_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Reads frames into `sender` until the other end closes, one cannot be read (the last that is sent), or nobody listens.
/// To be spawned: reading a frame cannot be cancelled half-way, so it has a task of its own.
pub(crate) async fn read_all<T: DeserializeOwned>(
    mut socket: impl AsyncRead + Unpin,
    sender: mpsc::Sender<Result<T, Error>>,
) {
    while let Some(frame) = read(&mut socket).await.transpose() {
        let is_last = frame.is_err();
        if sender.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

/// Reads one frame; `None` if the other end closed between frames. Not cancel safe.
pub(crate) async fn read<T: DeserializeOwned>(
    socket: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, Error> {
    let failed = |source| Error::Socket { action: "read", source };
    let mut prefix = [0; 4];
    let first = socket.read(&mut prefix).await.map_err(failed)?;
    if first == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut prefix[first..]).await.map_err(failed)?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length > FRAME_LIMIT_BYTES {
        return Err(Error::Frame { problem: "over the length limit", source: None });
    }
    let mut bytes = vec![0; length];
    socket.read_exact(&mut bytes).await.map_err(failed)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| Error::Frame { problem: "not a known frame", source: Some(source) })
}

/// Writes one frame. Not cancel safe.
pub(crate) async fn write<T: Serialize>(
    socket: &mut (impl AsyncWrite + Unpin),
    frame: &T,
) -> Result<(), Error> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, frame)
        .map_err(|source| Error::Frame { problem: "cannot be written", source: Some(source) })?;
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= FRAME_LIMIT_BYTES => bytes[..4].copy_from_slice(&prefix.to_le_bytes()),
        _ => return Err(Error::Frame { problem: "over the length limit", source: None }),
    }
    socket.write_all(&bytes).await.map_err(|source| Error::Socket { action: "write", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(bytes: &[u8], wanted: &str) {
        let mut socket = bytes;
        let found = match read::<FromUplink>(&mut socket).await {
            Ok(None) => "closed".to_owned(),
            Ok(Some(frame)) => format!("{frame:?}"),
            Err(Error::Frame { problem, .. }) => problem.to_owned(),
            Err(other) => other.to_string(),
        };
        assert_eq!(found, wanted);
    }

    fn framed(json: &str) -> Vec<u8> {
        let length = u32::try_from(json.len()).unwrap();
        [&length.to_le_bytes(), json.as_bytes()].concat()
    }

    #[tokio::test]
    async fn a_frame_is_read_strictly_and_within_its_limit() {
        check(b"", "closed").await;
        check(&framed(r#"{"acknowledged":{"upto_seq":7}}"#), "Acknowledged { upto_seq: 7 }").await;
        check(&framed(r#"{"acknowledged":{"upto_seq":7,"and":1}}"#), "not a known frame").await;
        check(&framed(r#"{"free":{"upto_seq":7}}"#), "not a known frame").await;
        check(&framed("{"), "not a known frame").await;
        check(&[0xff; 4], "over the length limit").await;
        check(&[9, 0], "cannot read the uplink socket").await;
        check(&[9, 0, 0, 0, b'{'], "cannot read the uplink socket").await;
    }

    #[tokio::test]
    async fn records_come_back_byte_for_byte() {
        let stored = |seq, bytes: &[u8]| StoredRecord { seq, bytes: bytes.to_vec() };
        let mut wire = Vec::new();
        write(&mut wire, &ToUplink::Records(vec![stored(1, b"\xff\x00\""), stored(2, b"")])).await.unwrap();
        match read(&mut wire.as_slice()).await.unwrap() {
            Some(ToUplink::Records(records)) => {
                assert_eq!(records, [stored(1, b"\xff\x00\""), stored(2, b"")]);
            }
            other => panic!("{other:?}"),
        }
    }
}
