//! The format of a stream's directory, version 1. This text is the specification.
//!
//! ```text
//! <stream>/
//!   stream.toml                   format = 1, epoch = "<16 hex digits>"
//!   lock                          empty; flock()ed exclusively while the stream is open
//!   cursor                        what was acknowledged and folded: see below
//!   reserve                       allocated, never read; deleted when the disk is full
//!   00000000000000000001.seg      segments, named by the sequence number of their first record
//!   00000000000000001042.seg
//!   index/                        sled; a cache of the segments
//!   quarantine-<n>/               a damaged index, or segments of another epoch; the newest 8 are kept
//! ```
//!
//! All integers are little-endian. CRC is CRC-32C (Castagnoli, RFC 3720 appendix B.4).
//!
//! **Numbers.** Records are numbered from 1 without a gap within an *epoch*, a random u64 made with the stream. It survives
//! restarts and changes only when the stream is lost, which is when no segment is left. (epoch, seq) is never given to two
//! records that a caller was told are committed.
//!
//! **Segment**, 32 bytes of header, then records:
//!
//! ```text
//!  0  magic      8   "MASTSEG" 0
//!  8  version    u32  1
//! 12  epoch      u64
//! 20  first_seq  u64  as in the file's name
//! 28  crc        u32  of bytes 0..28
//! ```
//!
//! **Record**, 16 bytes of header, then the payload, with no padding between records:
//!
//! ```text
//!  0  len        u32  bit 31: this record folds others; bits 0..31: bytes of payload, at most 16 MiB
//!  4  crc        u32  of epoch ‖ len ‖ seq ‖ payload
//!  8  seq        u64
//! 16  payload    len bytes
//! ```
//!
//! The epoch in the checksum, which no client knows, keeps a payload that contains the image of a record from being taken
//! for one when the reader looks for the next record behind damage.
//!
//! A segment ends where the next begins: records in it with the first number of the next segment or a higher one were
//! written by a commit that failed, and do not count.
//!
//! **Cursor**: two slots, at 0 and at 4096, written in turn; the valid one with the higher counter counts. A slot:
//!
//! ```text
//!  0  magic      8   "MASTCUR" 0
//!  8  version    u32  1
//! 12  epoch      u64
//! 20  counter    u64
//! 28  acked      u64  every record up to here was acknowledged
//! 36  floor      u64  every record below was folded or acknowledged
//! 44  fold_last  u64  if record fold_seq exists and has its fold bit set, every record up to here was folded into it
//! 52  fold_seq   u64  0: nothing was folded
//! 60  crc        u32  of bytes 0..60
//! ```
//!
//! The intention to fold is stored in the cursor before the folding record is written, so that the commit of that one record
//! is the moment at which it stands for the others.

pub(crate) const FORMAT: u32 = 1;
pub(crate) const SEGMENT_HEADER: u64 = 32;
pub(crate) const RECORD_HEADER: u64 = 16;
pub(crate) const RECORD_MAX: u32 = 16 << 20;
const SEGMENT_MAGIC: [u8; 8] = *b"MASTSEG\0";
const CURSOR_MAGIC: [u8; 8] = *b"MASTCUR\0";
const FOLD: u32 = 1 << 31;

/// What the first bytes of a segment say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentHeader {
    Valid { epoch: u64 },
    OtherFormat(u32),
    Damaged,
}

pub(crate) fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
    digits.parse().ok().filter(|&first| first > 0 && segment_name(first) == name)
}

pub(crate) fn segment_header(epoch: u64, first_seq: u64) -> Vec<u8> {
    let mut bytes = SEGMENT_MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(epoch.to_le_bytes());
    bytes.extend(first_seq.to_le_bytes());
    seal(bytes)
}

pub(crate) fn parse_segment_header(bytes: &[u8]) -> SegmentHeader {
    let Some(body) = sealed(bytes, 28).filter(|body| body.starts_with(&SEGMENT_MAGIC)) else {
        return SegmentHeader::Damaged;
    };
    match u32_at(body, 8) {
        FORMAT => SegmentHeader::Valid { epoch: u64_at(body, 12) },
        other => SegmentHeader::OtherFormat(other),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) len: u32,
    pub(crate) fold: bool,
    pub(crate) seq: u64,
    crc: u32,
}

impl RecordHeader {
    /// `bytes` holds at least [`RECORD_HEADER`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let len = u32_at(bytes, 0);
        Self { len: len & !FOLD, fold: len & FOLD != 0, crc: u32_at(bytes, 4), seq: u64_at(bytes, 8) }
    }

    pub(crate) fn matches(&self, epoch: u64, payload: &[u8]) -> bool {
        let len = if self.fold { self.len | FOLD } else { self.len };
        record_crc(epoch, len, self.seq, payload) == self.crc
    }
}

/// Appends one record to `buffer`. The payload is at most [`RECORD_MAX`] long, which the caller has checked.
pub(crate) fn put_record(buffer: &mut Vec<u8>, epoch: u64, seq: u64, fold: bool, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap_or(RECORD_MAX) | if fold { FOLD } else { 0 };
    buffer.extend_from_slice(&len.to_le_bytes());
    buffer.extend_from_slice(&record_crc(epoch, len, seq, payload).to_le_bytes());
    buffer.extend_from_slice(&seq.to_le_bytes());
    buffer.extend_from_slice(payload);
}

fn record_crc(epoch: u64, len: u32, seq: u64, payload: &[u8]) -> u32 {
    let mut head = [0; 20];
    head[..8].copy_from_slice(&epoch.to_le_bytes());
    head[8..12].copy_from_slice(&len.to_le_bytes());
    head[12..].copy_from_slice(&seq.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// The cursor's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CursorSlot {
    pub(crate) epoch: u64,
    pub(crate) counter: u64,
    pub(crate) acked: u64,
    pub(crate) floor: u64,
    pub(crate) fold_last: u64,
    pub(crate) fold_seq: u64,
}

impl CursorSlot {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = CURSOR_MAGIC.to_vec();
        bytes.extend(FORMAT.to_le_bytes());
        for field in [self.epoch, self.counter, self.acked, self.floor, self.fold_last, self.fold_seq] {
            bytes.extend(field.to_le_bytes());
        }
        seal(bytes)
    }

    /// `Err` is another format's version.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, u32> {
        let Some(body) = sealed(bytes, 60).filter(|body| body.starts_with(&CURSOR_MAGIC)) else {
            return Ok(None);
        };
        let field = |index: usize| u64_at(body, 12 + 8 * index);
        match u32_at(body, 8) {
            FORMAT => Ok(Some(Self {
                epoch: field(0),
                counter: field(1),
                acked: field(2),
                floor: field(3),
                fold_last: field(4),
                fold_seq: field(5),
            })),
            other => Err(other),
        }
    }
}

/// Appends the CRC of everything so far.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The first `len` bytes, if the CRC that follows them is theirs.
pub(crate) fn sealed(bytes: &[u8], len: usize) -> Option<&[u8]> {
    let body = bytes.get(..len)?;
    (bytes.len() >= len + 4 && crc32c::crc32c(body) == u32_at(bytes, len)).then_some(body)
}

/// Zero where `bytes` is too short, which no checksum accepts.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

pub(crate) fn stream_header(epoch: u64) -> String {
    format!(
        "# Written by mast; specified in docs/specs/journal.md. Do not edit.\nformat = {FORMAT}\nepoch = \"{epoch:016x}\"\n"
    )
}

/// The epoch, or `None` if the text is damaged, or the version of another format.
pub(crate) fn parse_stream_header(text: &str) -> Result<Option<u64>, u32> {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('=')).map(str::trim)
    };
    match value("format").and_then(|format| format.parse().ok()) {
        None => Ok(None),
        Some(FORMAT) => {
            let digits =
                value("epoch").map(|epoch| epoch.trim_matches('"')).filter(|digits| digits.len() == 16);
            Ok(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()))
        }
        Some(other) => Err(other),
    }
}
