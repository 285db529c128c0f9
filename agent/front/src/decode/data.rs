use std::borrow::Cow;

use engine::{Buffer, DataType};
use wire::Error;

use super::number::Number;
use super::{InputHead, Room, byte_size};

/// How deep the arrays of `data` may nest, as in Triton.
pub(crate) const MAX_DEPTH: usize = 100;

/// Writes the elements of `data` (nested or flat, row major; well-formed JSON) straight into the tensor's memory.
pub(super) fn fill(input: &InputHead<'_>, raw: &str, room: &mut dyn Room) -> Result<Buffer, Error> {
    let scan = Scan::new(input, raw);
    match input.datatype {
        DataType::Bool => fixed::<1>(scan, room, |scalar| match scalar.text {
            "true" => Some([1]),
            "false" => Some([0]),
            _ => None,
        }),
        DataType::Uint8 => fixed(scan, room, |scalar| scalar.integer::<u8>().map(u8::to_le_bytes)),
        DataType::Uint16 => fixed(scan, room, |scalar| scalar.integer::<u16>().map(u16::to_le_bytes)),
        DataType::Uint32 => fixed(scan, room, |scalar| scalar.integer::<u32>().map(u32::to_le_bytes)),
        DataType::Uint64 => fixed(scan, room, |scalar| scalar.integer::<u64>().map(u64::to_le_bytes)),
        DataType::Int8 => fixed(scan, room, |scalar| scalar.integer::<i8>().map(i8::to_le_bytes)),
        DataType::Int16 => fixed(scan, room, |scalar| scalar.integer::<i16>().map(i16::to_le_bytes)),
        DataType::Int32 => fixed(scan, room, |scalar| scalar.integer::<i32>().map(i32::to_le_bytes)),
        DataType::Int64 => fixed(scan, room, |scalar| scalar.integer::<i64>().map(i64::to_le_bytes)),
        DataType::Fp32 => fixed(scan, room, |scalar| scalar.number?.to_f32().map(f32::to_le_bytes)),
        DataType::Fp64 => fixed(scan, room, |scalar| scalar.number?.to_f64().map(f64::to_le_bytes)),
        DataType::Fp16 | DataType::Bf16 => Err(Error::invalid(format!(
            "input '{}': {} has no JSON form; send it with the binary extension (binary_data_size)",
            input.name, input.datatype
        ))),
        DataType::Bytes => framed(scan, room),
    }
}

/// Types of `SIZE` bytes per element.
fn fixed<const SIZE: usize>(
    mut scan: Scan<'_>,
    room: &mut dyn Room,
    bytes: impl Fn(Scalar<'_>) -> Option<[u8; SIZE]>,
) -> Result<Buffer, Error> {
    let input = scan.input;
    let len = byte_size(&input.name, input.datatype, &input.shape)?.unwrap_or_default();
    // An element takes at least two characters, so a short text cannot ask for much memory.
    if len / SIZE > scan.rest.len() / 2 + 1 {
        return Err(scan.count_error("fewer"));
    }
    let mut buffer = room.take(len)?;
    for (index, place) in buffer.bytes_mut().chunks_exact_mut(SIZE).enumerate() {
        let scalar = scan.next()?.ok_or_else(|| scan.count_error("fewer"))?;
        let value = bytes(scalar).ok_or_else(|| {
            // The value itself is the client's payload and stays out of messages.
            Error::invalid(format!(
                "input '{}': element {index} of data is no {}",
                input.name, input.datatype
            ))
        })?;
        place.copy_from_slice(&value);
    }
    match scan.next()? {
        None => Ok(buffer.freeze()),
        Some(_) => Err(scan.count_error("more")),
    }
}

/// BYTES: texts, each framed by its length.
fn framed(mut scan: Scan<'_>, room: &mut dyn Room) -> Result<Buffer, Error> {
    let mut frames = Vec::new();
    while let Some(scalar) = scan.next()? {
        let text: Cow<'_, str> = scalar.string().ok_or_else(|| {
            Error::invalid(format!("input '{}': the elements of BYTES data are texts", scan.input.name))
        })?;
        let length = u32::try_from(text.len()).map_err(|_| Error::invalid("a text is over 4 GiB"))?;
        frames.extend_from_slice(&length.to_le_bytes());
        frames.extend_from_slice(text.as_bytes());
    }
    let mut buffer = room.take(frames.len())?;
    buffer.bytes_mut().copy_from_slice(&frames);
    Ok(buffer.freeze())
}

/// One element of `data`.
#[derive(Clone, Copy)]
struct Scalar<'a> {
    text: &'a str,
    number: Option<Number<'a>>,
}

impl<'a> Scalar<'a> {
    fn integer<T: std::str::FromStr>(self) -> Option<T> {
        self.number?.integer()?.parse().ok()
    }

    fn string(self) -> Option<Cow<'a, str>> {
        if !self.text.starts_with('"') {
            return None;
        }
        match self.text.get(1..self.text.len() - 1) {
            Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
            _ => serde_json::from_str::<String>(self.text).ok().map(Cow::Owned),
        }
    }
}

/// Walks the scalars of nested arrays.
struct Scan<'a> {
    input: &'a InputHead<'a>,
    rest: &'a str,
    depth: usize,
}

impl<'a> Scan<'a> {
    fn new(input: &'a InputHead<'a>, rest: &'a str) -> Self {
        Self { input, rest, depth: 0 }
    }

    fn next(&mut self) -> Result<Option<Scalar<'a>>, Error> {
        loop {
            let Some(first) = self.rest.as_bytes().first() else { return Ok(None) };
            let length = match first {
                b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(self.error(&format!("data nests deeper than {MAX_DEPTH}")));
                    }
                    self.skip(1);
                    continue;
                }
                b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.skip(1);
                    continue;
                }
                b',' | b' ' | b'\t' | b'\n' | b'\r' => {
                    self.skip(1);
                    continue;
                }
                b'-' | b'0'..=b'9' => {
                    let number = Number::scan(self.rest).ok_or_else(|| self.error("data is malformed"))?;
                    self.skip(number.text.len());
                    return Ok(Some(Scalar { text: number.text, number: Some(number) }));
                }
                b'"' => string_length(self.rest.as_bytes()),
                b'{' => return Err(self.error("data holds an object")),
                _ => self.rest.bytes().take_while(u8::is_ascii_alphabetic).count(),
            };
            let text = self.rest.get(..length).filter(|text| !text.is_empty());
            let text = text.ok_or_else(|| self.error("data is malformed"))?;
            self.skip(length);
            return Ok(Some(Scalar { text, number: None }));
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    fn error(&self, what: &str) -> Error {
        Error::invalid(format!("input '{}': {what}", self.input.name))
    }

    fn count_error(&self, than: &str) -> Error {
        self.error(&format!("data has {than} elements than the shape {:?}", self.input.shape))
    }
}

/// Bytes of the JSON string at the beginning, quotes included; 0 when it does not end.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match bytes.get(at) {
            None => return 0,
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}
