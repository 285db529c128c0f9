//! Reads the records of one segment in order, past damage.

use std::io;

use crate::disk::{DiskFile, bytes_u64, read_full_at};
use crate::format::{RECORD_HEADER, RECORD_MAX, RecordHeader};

/// Damage is skipped byte by byte to the next record whose checksum and number fit; a jump in the numbers is what was lost.
/// Sectors that cannot be read count as zeros, which no checksum accepts. Holds one record and one read of `CHUNK` at most.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    epoch: u64,
    /// Bytes of the segment that count.
    len: u64,
    /// Where the next record is looked for.
    offset: u64,
    /// The lowest number that the next record may have.
    expected: u64,
    /// The first number that belongs to the next segment.
    end_seq: u64,
    torn_at: Option<u64>,
    buffer: Vec<u8>,
    buffer_at: u64,
}

#[derive(Debug)]
pub(crate) struct Record<'b> {
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    pub(crate) fold: bool,
    pub(crate) payload: &'b [u8],
}

const CHUNK: usize = 128 << 10;
const SECTOR: usize = 4096;

impl<'a> Scanner<'a> {
    /// From `offset`, where the record `expected` is or was, to `len`; records from `end_seq` on do not belong.
    pub(crate) fn new(
        file: &'a dyn DiskFile,
        epoch: u64,
        (offset, len): (u64, u64),
        expected: u64,
        end_seq: u64,
    ) -> Self {
        let (torn_at, buffer, buffer_at) = (None, Vec::new(), offset);
        Self { file, epoch, len, offset, expected, end_seq, torn_at, buffer, buffer_at }
    }

    /// After the last record: where bytes begin that are no record, if there are any.
    pub(crate) fn torn_at(&self) -> Option<u64> {
        self.torn_at
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        if self.torn_at.is_some() {
            return Ok(None);
        }
        let damage_from = self.offset;
        while self.offset < self.len {
            if let Some(header) = self.header_at(self.offset, self.offset != damage_from)? {
                if header.seq >= self.end_seq {
                    break;
                }
                let offset = self.offset;
                self.offset += RECORD_HEADER + u64::from(header.len);
                self.expected = header.seq + 1;
                let payload = self.bytes(offset + RECORD_HEADER, u64::from(header.len))?;
                return Ok(Some(Record { seq: header.seq, offset, fold: header.fold, payload }));
            }
            self.offset += 1;
        }
        if self.offset > damage_from || self.offset < self.len {
            self.torn_at = Some(damage_from);
        }
        Ok(None)
    }

    /// The header at `offset` if a whole valid record begins there.
    fn header_at(&mut self, offset: u64, behind_damage: bool) -> io::Result<Option<RecordHeader>> {
        let Some(room) = (self.len - offset).checked_sub(RECORD_HEADER) else {
            return Ok(None);
        };
        let header = RecordHeader::parse(self.bytes(offset, RECORD_HEADER)?);
        // No more records can have been lost than fit into the bytes before this one.
        let highest =
            if behind_damage { self.expected.saturating_add(self.len / RECORD_HEADER) } else { u64::MAX - 1 };
        let plausible = u64::from(header.len) <= room && header.len <= RECORD_MAX;
        if !plausible || header.seq < self.expected || header.seq > highest {
            return Ok(None);
        }
        let epoch = self.epoch;
        let payload = self.bytes(offset + RECORD_HEADER, u64::from(header.len))?;
        Ok(header.matches(epoch, payload).then_some(header))
    }

    /// `[at, at + len)`, which lies within the segment.
    fn bytes(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let (want, start) = (to_usize(len), to_usize(at.wrapping_sub(self.buffer_at)));
        if at < self.buffer_at || start.saturating_add(want) > self.buffer.len() {
            self.fill(at, want.max(CHUNK.min(to_usize(self.len - at))))?;
        }
        let start = to_usize(at - self.buffer_at);
        Ok(self.buffer.get(start..start + want).unwrap_or_default())
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        let kept = self.buffer.len().saturating_sub(to_usize(at.saturating_sub(self.buffer_at)));
        if at < self.buffer_at || kept == 0 {
            self.buffer.clear();
        } else {
            self.buffer.drain(..self.buffer.len() - kept);
        }
        self.buffer_at = at;
        let kept = self.buffer.len();
        self.buffer.resize(len.max(kept), 0);
        let rest = self.buffer.get_mut(kept..).unwrap_or_default();
        read_past_bad_sectors(self.file, rest, at + bytes_u64(kept))
    }
}

fn read_past_bad_sectors(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let Err(error) = read_full_at(file, buffer, offset) else {
        return Ok(());
    };
    if !is_bad_sector(&error) {
        return Err(error);
    }
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        // Pieces that end at sector boundaries, so that one bad sector costs no good one.
        let len = rest.len().min(SECTOR - to_usize(at % bytes_u64(SECTOR)));
        let (piece, behind) = rest.split_at_mut(len);
        match read_full_at(file, piece, at) {
            Ok(_) => {}
            Err(error) if is_bad_sector(&error) => piece.fill(0),
            Err(error) => return Err(error),
        }
        at += bytes_u64(len);
        rest = behind;
    }
    Ok(())
}

fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

pub(crate) fn to_usize(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
