//! Messages as they arrive: gRPC's framing (gRPC over HTTP/2, "Length-Prefixed-Message") and the outer fields of a
//! protobuf message, so that each can be judged before it is read.

use bytes::Bytes;
use engine::BufferMut;
use wire::{Error, ErrorCode};

use crate::body::{Budget, Encoding, ReadError, Reader, over_limit};

/// What stands before a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix {
    /// Bytes on the connection.
    pub(super) length: u64,
    pub(super) encoding: Encoding,
}

/// The prefix of the next message; `None` at the end of the stream. `encoding` is the call's, which each message may
/// use or not.
pub(super) async fn next(reader: &mut Reader, encoding: Encoding) -> Result<Option<Prefix>, ReadError> {
    let Some(flag) = reader.byte().await? else { return Ok(None) };
    let mut length = [0; 4];
    for byte in &mut length {
        *byte = reader.byte().await?.ok_or(ReadError::Malformed)?;
    }
    let length = u64::from(u32::from_be_bytes(length));
    match flag {
        0 => Ok(Some(Prefix { length, encoding: Encoding::Identity })),
        1 if encoding == Encoding::Identity => {
            // The code is gRPC's own (grpc/doc/compression.md).
            Err(Error::new(ErrorCode::Internal, "a compressed message, and grpc-encoding names no way")
                .into())
        }
        1 => Ok(Some(Prefix { length, encoding })),
        _ => Err(ReadError::Malformed),
    }
}

/// The one message of a small call, with its prefix, as if it had been sent plain.
pub(super) async fn plain(
    reader: &mut Reader,
    encoding: Encoding,
    limit: u64,
    budget: &mut Budget,
) -> Result<Bytes, ReadError> {
    let Some(prefix) = next(reader, encoding).await? else { return Ok(Bytes::new()) };
    let mut incoming = Incoming::new(reader, prefix);
    incoming.unpack(limit, budget).await?;
    let length = u32::try_from(incoming.left).map_err(|_| over_limit(limit))?;
    let rest = reader.rest(budget).await?;
    Ok([&[0], &length.to_be_bytes()[..], &rest].concat().into())
}

/// A message that is being read.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    reader: &'a mut Reader,
    left: u64,
    encoding: Encoding,
}

/// How a field's value is written (protobuf encoding, "wire types"). Groups are not part of any message here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    Length,
    Fixed32,
}

/// A field whose value has not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) wire: Wire,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(reader: &'a mut Reader, Prefix { length, encoding }: Prefix) -> Self {
        Self { reader, left: length, encoding }
    }

    /// Unpacks the message where it is packed; then it has at most `limit` bytes. `budget` has room for it as it came.
    pub(super) async fn unpack(&mut self, limit: u64, budget: &mut Budget) -> Result<(), ReadError> {
        let encoding = std::mem::replace(&mut self.encoding, Encoding::Identity);
        if encoding != Encoding::Identity {
            let packed = std::mem::take(&mut self.left);
            self.left = self.reader.unpack_next(packed, encoding, limit, budget).await?;
        }
        Ok(())
    }

    /// `None` at the end of the message.
    pub(super) async fn field(&mut self) -> Result<Option<Field>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let key = self.varint().await?;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Length,
            5 => Wire::Fixed32,
            _ => return Err(malformed()),
        };
        Ok(Some(Field { number: key >> 3, wire }))
    }

    pub(super) async fn varint(&mut self) -> Result<u64, ReadError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            self.left = self.left.checked_sub(1).ok_or_else(malformed)?;
            let byte = self.reader.byte().await?.ok_or(ReadError::Malformed)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed())
    }

    /// The length of a value that follows, which is inside the message.
    pub(super) async fn length(&mut self) -> Result<usize, ReadError> {
        let length = self.varint().await?;
        if length > self.left {
            return Err(malformed());
        }
        usize::try_from(length).map_err(|_| malformed())
    }

    /// Copies a field as it is.
    pub(super) async fn copy(
        &mut self,
        field: Field,
        head: &mut Vec<u8>,
        budget: &mut Budget,
    ) -> Result<(), ReadError> {
        let wire = match field.wire {
            Wire::Varint => 0,
            Wire::Fixed64 => 1,
            Wire::Length => 2,
            Wire::Fixed32 => 5,
        };
        prost::encoding::encode_varint(field.number << 3 | wire, head);
        let length = match field.wire {
            Wire::Varint => {
                let value = self.varint().await?;
                prost::encoding::encode_varint(value, head);
                0
            }
            Wire::Fixed64 => 8,
            Wire::Fixed32 => 4,
            Wire::Length => {
                let length = self.length().await?;
                prost::encoding::encode_varint(u64::try_from(length).unwrap_or(u64::MAX), head);
                length
            }
        };
        self.took(length)?;
        if self.reader.append(length, head, budget).await? > 0 {
            return Err(ReadError::Malformed);
        }
        Ok(())
    }

    pub(super) async fn fill(&mut self, place: &mut BufferMut) -> Result<(), ReadError> {
        self.took(place.len())?;
        if self.reader.fill(place.bytes_mut()).await? > 0 {
            return Err(ReadError::Malformed);
        }
        Ok(())
    }

    /// Reads on to the end of the message and keeps nothing.
    pub(super) async fn skip(&mut self) -> Result<(), ReadError> {
        let left = std::mem::take(&mut self.left);
        if self.reader.skip(left).await? > 0 { Err(ReadError::Malformed) } else { Ok(()) }
    }

    fn took(&mut self, length: usize) -> Result<(), ReadError> {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(length).ok_or_else(malformed)?;
        Ok(())
    }
}

fn malformed() -> ReadError {
    Error::invalid("the message is no ModelInferRequest: malformed protobuf").into()
}
