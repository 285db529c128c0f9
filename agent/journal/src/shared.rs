//! What the writer thread and the handles of a stream share.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::StreamConfig;
use crate::cursor::Cursor;
use crate::disk::{Disk, Mode};
use crate::error::Error;
use crate::format::segment_name;
use crate::index::Index;

/// Records that were committed and that the disk has lost, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub first: u64,
    pub last: u64,
}

/// How the index is doing. No state of it costs a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexState {
    /// Opened as it was left, or new.
    Intact,
    /// It was damaged: moved to a `quarantine-<n>` directory and made anew from the segments.
    Rebuilt { reason: String },
    /// Could not be opened or failed later: reads scan the segments.
    Off { reason: String },
}

/// A stream at one moment.
#[derive(Debug, Clone)]
pub struct StreamStatus {
    pub epoch: u64,
    /// The number of the next record; `next_seq - 1` is the committed head.
    pub next_seq: u64,
    /// Every record up to here was acknowledged.
    pub acked_seq: u64,
    /// Committed, neither acknowledged nor folded.
    pub pending_records: u64,
    /// Their bytes on disk; a partly acknowledged segment counts by its share.
    pub pending_bytes: u64,
    /// All segments, acknowledged records in them included. The index (a few MiB at most) is not counted.
    pub disk_bytes: u64,
    pub quota_bytes: u64,
    /// How long the oldest pending record has waited, to about a second; counted from the open for older ones.
    pub oldest_pending: Option<Duration>,
    pub index: IndexState,
    /// Written to segments since the open: payload, record headers and segment headers.
    pub bytes_written: u64,
    /// The latest losses found since and at the open, at most 64.
    pub gaps: Vec<Gap>,
    /// The last append met a full disk.
    pub disk_full: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) config: StreamConfig,
    pub(crate) epoch: u64,
    pub(crate) index: Index,
    pub(crate) head: watch::Sender<u64>,
    pub(crate) cursor: Mutex<Cursor>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// By first number; the last one is being written.
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) next_seq: u64,
    pub(crate) acked: u64,
    /// Records below were acknowledged or folded.
    pub(crate) floor: u64,
    pub(crate) bytes_written: u64,
    pub(crate) gaps: VecDeque<Gap>,
    pub(crate) marks: Marks,
    /// Since when the disk is full; appends are refused until the reserve could be put back.
    pub(crate) full_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// One past its last record.
    pub(crate) end_seq: u64,
    /// Header included.
    pub(crate) bytes: u64,
    pub(crate) records: u64,
}

const GAPS_KEPT: usize = 64;

impl State {
    pub(crate) fn new(segments: BTreeMap<u64, Segment>, next_seq: u64, acked: u64, floor: u64) -> Self {
        let mut marks = Marks::default();
        if next_seq > acked + 1 {
            marks.commit(acked + 1);
        }
        let (gaps, bytes_written, full_since) = (VecDeque::new(), 0, None);
        Self { segments, next_seq, acked, floor, bytes_written, gaps, marks, full_since }
    }

    /// The lowest number that a reader may still want.
    pub(crate) fn first_wanted(&self) -> u64 {
        self.floor.max(self.acked + 1)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    pub(crate) fn add_gap(&mut self, gap: Gap) {
        let first = gap.first.max(self.first_wanted());
        let gap = Gap { first, ..gap };
        if gap.first > gap.last
            || self.gaps.iter().any(|known| known.first <= gap.first && gap.last <= known.last)
        {
            return;
        }
        self.gaps.retain(|known| known.first < gap.first || gap.last < known.last);
        tracing::warn!(first = gap.first, last = gap.last, "the journal lost records to damage on disk");
        if self.gaps.len() == GAPS_KEPT {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap);
    }

    /// (records, bytes) that wait for a reader.
    pub(crate) fn pending(&self) -> (u64, u64) {
        let wanted = self.first_wanted();
        let share = |segment: &Segment| {
            let records = segment.records.min(segment.end_seq.saturating_sub(wanted));
            let bytes = segment.bytes.saturating_mul(records).checked_div(segment.records).unwrap_or(0);
            (records, bytes)
        };
        self.segments.values().map(share).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

impl Shared {
    pub(crate) fn new(
        (disk, dir): (Arc<dyn Disk>, PathBuf),
        (config, epoch): (StreamConfig, u64),
        (index, cursor): (Index, Cursor),
        state: State,
    ) -> Self {
        let head = watch::Sender::new(state.next_seq - 1);
        Self { disk, dir, config, epoch, index, head, cursor: Mutex::new(cursor), state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cursor(&self) -> MutexGuard<'_, Cursor> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn segment_path(&self, first_seq: u64) -> PathBuf {
        self.dir.join(segment_name(first_seq))
    }

    /// Removes the segments that nobody needs, all but the last, and their rows. An unlink that fails is tried again next time.
    pub(crate) fn free_segments(&self) {
        let free: Vec<(u64, u64)> = {
            let state = self.state();
            let wanted = state.first_wanted();
            let ends = state.segments.keys().skip(1);
            // A segment ends where the next begins, whatever its damage.
            state.segments.keys().copied().zip(ends.copied()).filter(|&(_, end)| end <= wanted).collect()
        };
        let mut freed = false;
        for (first, end) in free {
            match self.disk.remove(&self.segment_path(first)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(segment = first, %error, "cannot remove a segment; its space is not free yet");
                    continue;
                }
                _ => {}
            }
            self.state().segments.remove(&first);
            self.index.remove(first..=end - 1);
            freed = true;
        }
        if freed {
            self.restore_reserve();
        }
    }

    /// Gives the reserve's room to whoever needs it on a full disk.
    pub(crate) fn free_reserve(&self) {
        self.state().full_since = Some(Instant::now());
        // Absent already is as good.
        drop(self.disk.remove(&self.dir.join("reserve")));
    }

    /// Makes the reserve if it is not there. False: there is no room for it.
    pub(crate) fn restore_reserve(&self) -> bool {
        let made = make_reserve(&*self.disk, &self.dir, self.config.reserve_bytes);
        self.state().full_since = if made.is_ok() { None } else { Some(Instant::now()) };
        made.is_ok()
    }
}

pub(crate) fn make_reserve(disk: &dyn Disk, dir: &std::path::Path, bytes: u64) -> Result<(), Error> {
    let path = dir.join("reserve");
    if bytes == 0 || disk.open(&path, Mode::Read).is_ok_and(|file| file.len().is_ok_and(|len| len >= bytes)) {
        return Ok(());
    }
    let made = disk.open(&path, Mode::Create).and_then(|file| file.allocate(bytes));
    made.map_err(|source| {
        drop(disk.remove(&path));
        Error::io("allocate", &path, source)
    })
}

/// When records were committed, a mark a second, thinned when there are many.
#[derive(Debug, Default)]
pub(crate) struct Marks(VecDeque<(u64, Instant)>);

impl Marks {
    const LIMIT: usize = 512;

    pub(crate) fn commit(&mut self, first_seq: u64) {
        let now = Instant::now();
        if self.0.back().is_some_and(|(_, at)| now.duration_since(*at) < Duration::from_secs(1)) {
            return;
        }
        if self.0.len() == Self::LIMIT {
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.0.push_back((first_seq, now));
    }

    /// Forgets what came before `wanted`.
    pub(crate) fn free(&mut self, wanted: u64, next_seq: u64) {
        if wanted >= next_seq {
            self.0.clear();
        }
        while self.0.get(1).is_some_and(|(first_seq, _)| *first_seq <= wanted) {
            self.0.pop_front();
        }
    }

    pub(crate) fn oldest(&self) -> Option<Duration> {
        self.0.front().map(|(_, at)| at.elapsed())
    }
}
