//! Fields as bytes. Every read checks what is left before it takes anything.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::VERSION;

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of version {got}, not {VERSION}")]
    Version { got: u8 },
    #[error("a frame of the unknown kind {got}")]
    Kind { got: u8 },
    #[error("a frame of {len} bytes")]
    TooLong { len: usize },
    #[error("a frame that ends early")]
    Short,
    #[error("{len} bytes behind the last field of a frame")]
    Trailing { len: usize },
    #[error("a field that is no {what}")]
    Field { what: &'static str },
    #[error("a frame out of turn")]
    OutOfTurn,
    #[error("outputs that were not asked for: {what}")]
    Output { what: &'static str },
}

pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn frame(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[VERSION, kind]);
        Self(bytes)
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn bytes(&mut self, bytes: &[u8]) {
        count(bytes.len()).write(self);
        self.0.extend_from_slice(bytes);
    }
}

/// No list reaches this: it would not fit into a frame.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

pub(super) struct Reader<'bytes>(&'bytes [u8]);

impl<'bytes> Reader<'bytes> {
    pub(super) fn frame<T>(
        bytes: &'bytes [u8],
        read: impl FnOnce(u8, &mut Self) -> Result<T, FrameError>,
    ) -> Result<T, FrameError> {
        let mut from = Self(bytes);
        let version = u8::read(&mut from)?;
        if version != VERSION {
            return Err(FrameError::Version { got: version });
        }
        let kind = u8::read(&mut from)?;
        let frame = read(kind, &mut from)?;
        match from.0.len() {
            0 => Ok(frame),
            len => Err(FrameError::Trailing { len }),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'bytes [u8], FrameError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(FrameError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn bytes(&mut self) -> Result<&'bytes [u8], FrameError> {
        let len = u32::read(self)?;
        self.take(usize::try_from(len).map_err(|_| FrameError::Short)?)
    }
}

/// What can be a field.
pub(super) trait Word: Sized {
    fn write(&self, out: &mut Writer);
    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError>;
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl Word for $integer {
            fn write(&self, out: &mut Writer) {
                out.0.extend_from_slice(&self.to_le_bytes());
            }

            fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
                let (bytes, rest) = from.0.split_first_chunk().ok_or(FrameError::Short)?;
                from.0 = rest;
                Ok(Self::from_le_bytes(*bytes))
            }
        }
    )*};
}

integers! { u8 u32 u64 }

impl Word for usize {
    fn write(&self, out: &mut Writer) {
        u64::try_from(*self).unwrap_or(u64::MAX).write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        usize::try_from(u64::read(from)?).map_err(|_| FrameError::Field { what: "size" })
    }
}

impl Word for bool {
    fn write(&self, out: &mut Writer) {
        u8::from(*self).write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        match u8::read(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Field { what: "bool" }),
        }
    }
}

impl Word for String {
    fn write(&self, out: &mut Writer) {
        out.bytes(self.as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let text = std::str::from_utf8(from.bytes()?).map_err(|_| FrameError::Field { what: "text" })?;
        Ok(text.to_owned())
    }
}

impl Word for PathBuf {
    fn write(&self, out: &mut Writer) {
        out.bytes(self.as_os_str().as_bytes());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(Self::from(OsString::from_vec(from.bytes()?.to_vec())))
    }
}

impl<T: Word> Word for Option<T> {
    fn write(&self, out: &mut Writer) {
        self.is_some().write(out);
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(if bool::read(from)? { Some(T::read(from)?) } else { None })
    }
}

impl<T: Word> Word for Vec<T> {
    fn write(&self, out: &mut Writer) {
        count(self.len()).write(out);
        for element in self {
            element.write(out);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        // Grown, not reserved: the count is only a claim, and each element takes at least a byte of the frame.
        (0..u32::read(from)?).map(|_| T::read(from)).collect::<Result<_, _>>()
    }
}

impl<A: Word, B: Word> Word for (A, B) {
    fn write(&self, out: &mut Writer) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok((A::read(from)?, B::read(from)?))
    }
}

/// Structs are their fields in the order named.
macro_rules! words {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl $crate::frame::codec::Word for $name {
            fn write(&self, out: &mut $crate::frame::codec::Writer) {
                $($crate::frame::codec::Word::write(&self.$field, out);)*
            }

            fn read(
                from: &mut $crate::frame::codec::Reader<'_>,
            ) -> Result<Self, $crate::frame::codec::FrameError> {
                Ok(Self { $($field: $crate::frame::codec::Word::read(from)?),* })
            }
        }
    )*};
}

/// One of a fixed list is its place in the list, a u8.
macro_rules! choices {
    ($($name:ty, $what:literal, $list:expr;)*) => {$(
        impl $crate::frame::codec::Word for $name {
            fn write(&self, out: &mut $crate::frame::codec::Writer) {
                let place = $list.iter().position(|choice| choice == self);
                let place = place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX);
                $crate::frame::codec::Word::write(&place, out);
            }

            fn read(
                from: &mut $crate::frame::codec::Reader<'_>,
            ) -> Result<Self, $crate::frame::codec::FrameError> {
                let place = <u8 as $crate::frame::codec::Word>::read(from)?;
                let choice = $list.get(usize::from(place)).copied();
                choice.ok_or($crate::frame::codec::FrameError::Field { what: $what })
            }
        }
    )*};
}

pub(super) use {choices, words};
