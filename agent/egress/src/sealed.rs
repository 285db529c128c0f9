//! The seal, and the version every document carries.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

pub(crate) trait Sealed {
    /// The kind, for errors.
    const WHAT: &'static str;
}

/// What may leave the site. Sealed: only types of this crate implement it, so what can be sent is what can be read here.
#[expect(private_bounds, reason = "the seal")]
pub trait Egress: Serialize + Sealed {
    /// The longest encoded form, in bytes.
    const LIMIT_BYTES: usize;

    /// The JSON bytes that are sent.
    ///
    /// # Errors
    /// [`Error::TooLong`] over [`Self::LIMIT_BYTES`].
    fn encode(&self) -> Result<Vec<u8>, Error> {
        let bytes = serde_json::to_vec(self).map_err(|source| Error::Encode { what: Self::WHAT, source })?;
        if bytes.len() > Self::LIMIT_BYTES {
            return Err(Error::TooLong { what: Self::WHAT, length: bytes.len(), limit: Self::LIMIT_BYTES });
        }
        Ok(bytes)
    }
}

/// Reads JSON that is at most `limit` bytes long.
pub(crate) fn decode<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
    limit: usize,
) -> Result<T, Error> {
    if bytes.len() > limit {
        return Err(Error::TooLong { what, length: bytes.len(), limit });
    }
    serde_json::from_slice(bytes).map_err(|source| Error::Decode { what, source })
}

/// The `"v": 1` of every document. Another number is refused on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FormatVersion;

impl FormatVersion {
    /// The number written.
    pub const NUMBER: u32 = 1;
}

impl Serialize for FormatVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(Self::NUMBER)
    }
}

impl<'de> Deserialize<'de> for FormatVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            Self::NUMBER => Ok(Self),
            other => Err(serde::de::Error::custom(format_args!(
                "format version {other}, this reads {}",
                Self::NUMBER
            ))),
        }
    }
}
