//! Opens a stream's directory, whatever a crash or a bad disk has left there. The rules:
//!
//! 1. **Epoch**: that of the newest segment with a valid header, else that of `stream.toml`. Segments of another epoch are
//!    moved to quarantine. No segment left means the stream is lost: a new epoch, numbers from 1, cursor and index made anew.
//! 2. **Cursor**: missing or unreadable, everything before the first segment counts as acknowledged, nothing after it.
//! 3. **Sealed segments** whose every byte the index covers, without a hole, are not read; their checksums are checked when
//!    they are. The others are scanned, and their rows made anew.
//! 4. **Damage** is skipped to the next valid record; what lies between is a [`Gap`]. (An unfinished commit group of which only a
//!    later part reached the disk looks the same: a gap of numbers that nobody was told about.)
//! 5. **The last segment** is always scanned. What follows its last valid record is a torn write and is cut off. Then the
//!    file is synced: a record that a reader has seen must not vanish later and leave its number to another.
//! 6. **Next number**: behind every record, every acknowledgement and every commit that the index remembers. Where that is
//!    behind the last segment's end, committed records were lost: a gap, and a new segment begins.
//! 7. **A fold** counts if its record is there; then what it folded is removed now, if it was not before the crash.
//! 8. A version that is not known is refused, and nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::atomic;
use crate::config::StreamConfig;
use crate::cursor::Cursor;
use crate::disk::{Disk, DiskFile, Mode, OsDisk, bytes_u64, read_full_at, write_all_at};
use crate::error::Error;
use crate::format::{
    FORMAT, RECORD_HEADER, SEGMENT_HEADER, SegmentHeader, parse_segment_header, parse_segment_name,
    parse_stream_header, segment_header, segment_name, stream_header,
};
use crate::index::{Index, Row};
use crate::scan::{Scanner, to_usize};
use crate::shared::{Gap, IndexState, Segment, Shared, State, make_reserve};

/// What an open found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub epoch: u64,
    /// The stream is new, or was lost: the epoch was made now.
    pub created: bool,
    /// Records that wait for a reader.
    pub records: u64,
    /// Bytes of a torn write that were cut off.
    pub truncated_bytes: u64,
    /// What was committed and is lost, acknowledged and folded records apart; found again at each open until acknowledged.
    pub gaps: Vec<Gap>,
    pub index: IndexState,
}

/// The state of a directory, the last segment's file, and a report. The caller holds the lock.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    config: &StreamConfig,
) -> Result<(Shared, Box<dyn DiskFile>, Opened), Error> {
    let (epoch, mut firsts, header) = identify(&**disk, dir)?;
    // What the last process did to names and did not sync must not be undone later, by a cut after this open went by it:
    // an empty segment that it took back would come back and end the one before.
    disk.sync_dir(dir).map_err(|source| Error::io("sync the directory", dir, source))?;
    let created = firsts.is_empty();
    if created {
        create_segment(&**disk, dir, epoch, 1)?;
        firsts.push(1);
    }
    if header != Some(epoch) {
        atomic::write_on(&**disk, &dir.join("stream.toml"), stream_header(epoch).as_bytes())?;
    }
    let first_seq = firsts.first().copied().unwrap_or(1);
    let (cursor, cursor_found) = Cursor::open(&**disk, &dir.join("cursor"), epoch, first_seq)?;
    let slot = cursor.slot();

    let reserve = make_reserve(&**disk, dir, config.reserve_bytes);
    if let Err(error) = &reserve {
        tracing::warn!(%error, "no room for the journal's reserve");
    }
    let index = Index::open(dir, epoch, &|| disk.remove(&dir.join("reserve")).is_ok());
    let index_end = index.at_or_before(u64::MAX).map_or(0, |row| row.end_seq());
    let mut recovery = Recovery {
        disk: &**disk,
        dir,
        epoch,
        index: &index,
        segments: BTreeMap::new(),
        gaps: Vec::new(),
        truncated_bytes: 0,
    };
    let mut file = recovery.segments(&firsts)?;

    let folded = slot.fold_seq > slot.acked && recovery.is_fold(slot.fold_seq)?;
    let floor = if folded { slot.floor.max(slot.fold_last + 1) } else { slot.floor };
    let wanted = floor.max(slot.acked + 1);
    if cursor_found {
        recovery.gap(wanted, first_seq);
    }
    let end_seq = recovery.segments.values().next_back().map_or(1, |last| last.end_seq);
    let next_seq = end_seq.max(wanted).max(index_end);
    if next_seq > end_seq {
        recovery.gap(end_seq, next_seq);
        file = create_segment(&**disk, dir, epoch, next_seq)?;
        recovery.segments.insert(next_seq, Segment { end_seq: next_seq, bytes: SEGMENT_HEADER, records: 0 });
    }

    let Recovery { segments, mut gaps, truncated_bytes, .. } = recovery;
    gaps.retain_mut(|gap| {
        gap.first = gap.first.max(wanted);
        gap.first <= gap.last
    });
    gaps.sort_unstable_by_key(|gap| gap.first);
    let mut state = State::new(segments, next_seq, slot.acked, floor);
    for gap in &gaps {
        state.add_gap(*gap);
    }
    if reserve.is_err() {
        state.full_since = Some(std::time::Instant::now());
    }
    let opened =
        Opened { epoch, created, records: state.pending().0, truncated_bytes, gaps, index: index.state() };
    let shared =
        Shared::new((Arc::clone(disk), dir.to_path_buf()), (config.clone(), epoch), (index, cursor), state);
    shared.free_segments();
    Ok((shared, file, opened))
}

/// The epoch, the first numbers of its segments in order, and what `stream.toml` says.
fn identify(disk: &dyn Disk, dir: &Path) -> Result<(u64, Vec<u64>, Option<u64>), Error> {
    let header = read_stream_header(disk, dir)?;
    let names = disk.names(dir).map_err(|source| Error::io("list", dir, source))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| parse_segment_name(name)).collect();
    firsts.sort_unstable();
    let mut epochs = Vec::new();
    for &first in &firsts {
        let path = dir.join(segment_name(first));
        epochs.push(match read_segment_header(disk, &path)? {
            SegmentHeader::Valid { epoch } => Some(epoch),
            SegmentHeader::Damaged => None,
            SegmentHeader::OtherFormat(found) => {
                return Err(Error::Format { path, found, supported: FORMAT });
            }
        });
    }
    let Some(epoch) = epochs.iter().rev().find_map(|epoch| *epoch).or(header).filter(|_| !firsts.is_empty())
    else {
        set_aside(disk, dir, &firsts)?;
        return Ok((new_epoch()?, Vec::new(), header));
    };
    let (ours, foreign): (Vec<_>, Vec<_>) =
        firsts.into_iter().zip(epochs).partition(|(_, found)| found.is_none_or(|found| found == epoch));
    set_aside(disk, dir, &foreign.into_iter().map(|(first, _)| first).collect::<Vec<_>>())?;
    Ok((epoch, ours.into_iter().map(|(first, _)| first).collect(), header))
}

fn set_aside(disk: &dyn Disk, dir: &Path, segments: &[u64]) -> Result<(), Error> {
    if segments.is_empty() {
        return Ok(());
    }
    tracing::warn!(count = segments.len(), "journal segments of no known epoch are moved to quarantine");
    let names: Vec<String> = segments.iter().map(|&first| segment_name(first)).collect();
    move_to_quarantine(disk, dir, &names)
        .map_err(|source| Error::io("move segments to quarantine in", dir, source))
}

fn read_stream_header(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>, Error> {
    let path = dir.join("stream.toml");
    let mut bytes = vec![0; 4096];
    let read = disk.open(&path, Mode::Read).and_then(|file| read_full_at(&*file, &mut bytes, 0));
    // Unreadable or absent: the segments know the epoch too.
    bytes.truncate(read.unwrap_or(0));
    parse_stream_header(&String::from_utf8_lossy(&bytes)).map_err(|found| Error::Format {
        path,
        found,
        supported: FORMAT,
    })
}

fn read_segment_header(disk: &dyn Disk, path: &Path) -> Result<SegmentHeader, Error> {
    let file = disk.open(path, Mode::Read).map_err(|source| Error::io("open", path, source))?;
    let mut bytes = vec![0; to_usize(SEGMENT_HEADER)];
    // A header that cannot be read is a damaged one: the name and the records' own checksums stand in for it.
    let read = read_full_at(&*file, &mut bytes, 0).unwrap_or(0);
    Ok(parse_segment_header(bytes.get(..read).unwrap_or_default()))
}

/// An empty segment, durable with its name; one of the same name is overwritten.
pub(crate) fn create_segment(
    disk: &dyn Disk,
    dir: &Path,
    epoch: u64,
    first_seq: u64,
) -> Result<Box<dyn DiskFile>, Error> {
    let path = dir.join(segment_name(first_seq));
    let created = disk.open(&path, Mode::Create).and_then(|file| {
        write_all_at(&*file, &segment_header(epoch, first_seq), 0)?;
        file.sync_data()?;
        disk.sync_dir(dir)?;
        Ok(file)
    });
    created.map_err(|source| Error::io("create", &path, source))
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    epoch: u64,
    index: &'a Index,
    segments: BTreeMap<u64, Segment>,
    gaps: Vec<Gap>,
    truncated_bytes: u64,
}

impl Recovery<'_> {
    /// Reads what must be read; returns the last segment's file.
    fn segments(&mut self, firsts: &[u64]) -> Result<Box<dyn DiskFile>, Error> {
        let ends = firsts.iter().skip(1).copied().chain([u64::MAX]);
        let mut last_file = None;
        for (&first, end) in firsts.iter().zip(ends) {
            let path = self.dir.join(segment_name(first));
            let last = end == u64::MAX;
            let mode = if last { Mode::Write } else { Mode::Read };
            let file = self.disk.open(&path, mode).map_err(|source| Error::io("open", &path, source))?;
            let segment = match self.covered(&*file, first, end) {
                Some(segment) if !last => segment,
                _ => self.scan(&*file, first, end).map_err(|source| Error::io("recover", &path, source))?,
            };
            self.segments.insert(first, segment);
            last_file = Some(file);
        }
        last_file.ok_or_else(|| Error::io("find a segment in", self.dir, io::ErrorKind::NotFound.into()))
    }

    fn gap(&mut self, first: u64, end: u64) {
        if first < end {
            self.gaps.push(Gap { first, last: end - 1 });
        }
    }

    /// The segment, if the index has rows for all of it.
    fn covered(&self, file: &dyn DiskFile, first: u64, end: u64) -> Option<Segment> {
        let (mut offset, mut seq) = (SEGMENT_HEADER, first);
        for row in self.index.rows(first..=end - 1) {
            if (row.segment, row.offset, row.first_seq) != (first, offset, seq) {
                return None;
            }
            (offset, seq) = (offset.saturating_add(row.bytes), row.end_seq());
        }
        let bytes = file.len().ok()?;
        (offset == bytes && seq == end).then_some(Segment { end_seq: end, bytes, records: end - first })
    }

    /// Reads the whole segment; the last one (`end` is `u64::MAX`) is made fit to be appended to.
    fn scan(&mut self, file: &dyn DiskFile, first: u64, end: u64) -> io::Result<Segment> {
        let last = end == u64::MAX;
        let mut bytes = file.len()?;
        self.index.remove(first..=end - 1);
        let mut scanner = Scanner::new(file, self.epoch, (SEGMENT_HEADER, bytes), first, end);
        let (mut seq, mut records) = (first, 0);
        let mut row = Row { first_seq: first, segment: first, offset: SEGMENT_HEADER, bytes: 0, records: 0 };
        while let Some(record) = scanner.next()? {
            let size = RECORD_HEADER + bytes_u64(record.payload.len());
            let adjoins = record.seq == row.end_seq() && record.offset == row.offset + row.bytes;
            if !adjoins || row.records == ROW_RECORDS {
                self.put(row);
                row = Row {
                    first_seq: record.seq,
                    segment: first,
                    offset: record.offset,
                    bytes: 0,
                    records: 0,
                };
            }
            (row.bytes, row.records) = (row.bytes + size, row.records + 1);
            if seq < record.seq {
                self.gaps.push(Gap { first: seq, last: record.seq - 1 });
            }
            (seq, records) = (record.seq + 1, records + 1);
        }
        let torn_at = scanner.torn_at();
        self.put(row);
        if !last {
            self.gap(seq, end);
            return Ok(Segment { end_seq: seq, bytes, records });
        }
        let mut header = vec![0; to_usize(SEGMENT_HEADER)];
        let read = read_full_at(file, &mut header, 0).unwrap_or(0);
        if parse_segment_header(header.get(..read).unwrap_or_default()) == SegmentHeader::Damaged {
            write_all_at(file, &segment_header(self.epoch, first), 0)?;
            bytes = bytes.max(SEGMENT_HEADER);
        }
        if let Some(torn_at) = torn_at {
            self.truncated_bytes = bytes - torn_at;
            tracing::info!(bytes = self.truncated_bytes, "cut a torn write off the journal's last segment");
            file.truncate(torn_at)?;
            bytes = torn_at;
        }
        file.sync_data()?;
        Ok(Segment { end_seq: seq, bytes, records })
    }

    fn put(&self, row: Row) {
        if row.records > 0 {
            self.index.put(row);
        }
    }

    fn is_fold(&self, seq: u64) -> Result<bool, Error> {
        let Some((&first, segment)) =
            self.segments.range(..=seq).next_back().filter(|(_, segment)| seq < segment.end_seq)
        else {
            return Ok(false);
        };
        let path = self.dir.join(segment_name(first));
        let look = || {
            let file = self.disk.open(&path, Mode::Read)?;
            let (offset, expected) = start_of(self.index, first, seq);
            let mut scanner = Scanner::new(&*file, self.epoch, (offset, segment.bytes), expected, seq + 1);
            while let Some(record) = scanner.next()? {
                if record.seq == seq {
                    return Ok(record.fold);
                }
            }
            Ok(false)
        };
        look().map_err(|source| Error::io("read", &path, source))
    }
}

const ROW_RECORDS: u64 = 256;

/// Where to begin reading a segment for record `seq`: (offset, number of the record there).
pub(crate) fn start_of(index: &Index, segment: u64, seq: u64) -> (u64, u64) {
    match index.at_or_before(seq) {
        Some(row) if row.segment == segment => (row.offset, row.first_seq),
        _ => (SEGMENT_HEADER, segment),
    }
}

fn new_epoch() -> Result<u64, Error> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 8];
    fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| Error::io("read", path, source))?;
    Ok(u64::from_le_bytes(bytes))
}

const QUARANTINES_KEPT: u64 = 8;

/// Moves the index to a new `quarantine-<n>` and deletes the index, a cache, from all but the newest of those directories.
pub(crate) fn quarantine_index(dir: &Path) -> io::Result<()> {
    move_to_quarantine(&OsDisk, dir, &["index".to_owned()])?;
    let numbers = quarantines(&OsDisk, dir)?;
    let newest = numbers.iter().max().copied().unwrap_or(0);
    for number in numbers.into_iter().filter(|number| number + QUARANTINES_KEPT <= newest) {
        let old = dir.join(format!("quarantine-{number}"));
        // Segments in there keep the directory alive.
        fs::remove_dir_all(old.join("index")).and_then(|()| fs::remove_dir(old)).unwrap_or_default();
    }
    Ok(())
}

fn move_to_quarantine(disk: &dyn Disk, dir: &Path, names: &[String]) -> io::Result<()> {
    let number = quarantines(disk, dir)?.into_iter().max().unwrap_or(0) + 1;
    let quarantine = dir.join(format!("quarantine-{number}"));
    disk.create_dirs(&quarantine)?;
    for name in names {
        match disk.rename(&dir.join(name), &quarantine.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    disk.sync_dir(&quarantine)?;
    disk.sync_dir(dir)
}

fn quarantines(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    Ok(disk.names(dir)?.iter().filter_map(|name| name.strip_prefix("quarantine-")?.parse().ok()).collect())
}
