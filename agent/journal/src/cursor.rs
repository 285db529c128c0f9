//! The small file that says what was acknowledged and folded: two slots, written in turn and in place, so that it can be
//! written on a full disk and one torn write leaves the other slot. Behind the truth after a crash means duplicates for
//! the reader; ahead of it never happens, because a caller acknowledges only what was committed.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile, Mode, read_full_at, write_all_at};
use crate::error::Error;
use crate::format::{CursorSlot, FORMAT};
use crate::{atomic, scan::to_usize};

const SLOT_AT: [u64; 2] = [0, 4096];
const FILE_BYTES: u64 = 8192;

#[derive(Debug)]
pub(crate) struct Cursor {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    slot: CursorSlot,
}

impl Cursor {
    /// The cursor of this epoch and whether one was found; a new one, written, if there was none or it is of another epoch.
    pub(crate) fn open(
        disk: &dyn Disk,
        path: &Path,
        epoch: u64,
        first_seq: u64,
    ) -> Result<(Self, bool), Error> {
        if let Ok(file) = disk.open(path, Mode::Write) {
            let mut bytes = vec![0; to_usize(FILE_BYTES)];
            // Unreadable is as good as absent: the file is made anew below.
            let read = read_full_at(&*file, &mut bytes, 0).unwrap_or(0);
            let mut newest = None;
            for at in SLOT_AT {
                let slot = bytes.get(..read).and_then(|bytes| bytes.get(to_usize(at)..)).unwrap_or_default();
                let slot = CursorSlot::parse(slot).map_err(|found| Error::Format {
                    path: path.to_path_buf(),
                    found,
                    supported: FORMAT,
                })?;
                let slot = slot.filter(|slot| slot.epoch == epoch);
                newest = newest.into_iter().chain(slot).max_by_key(|slot: &CursorSlot| slot.counter);
            }
            if let Some(slot) = newest {
                return Ok((Self { file, path: path.to_path_buf(), slot }, true));
            }
        }
        // Segments are removed only after an acknowledgement or a fold: what is below the first one needs no reader.
        let acked = first_seq.saturating_sub(1);
        let slot = CursorSlot { epoch, counter: 1, acked, floor: first_seq, fold_last: 0, fold_seq: 0 };
        let mut bytes = slot.encode();
        bytes.resize(to_usize(FILE_BYTES), 0);
        atomic::write_on(disk, path, &bytes)?;
        let file = disk.open(path, Mode::Write).map_err(|source| Error::io("open", path, source))?;
        Ok((Self { file, path: path.to_path_buf(), slot }, false))
    }

    pub(crate) fn slot(&self) -> CursorSlot {
        self.slot
    }

    /// Durable when it returns.
    pub(crate) fn store(&mut self, change: impl FnOnce(&mut CursorSlot)) -> Result<(), Error> {
        let mut next = self.slot;
        change(&mut next);
        next.counter += 1;
        let at = if next.counter.is_multiple_of(2) { SLOT_AT[1] } else { SLOT_AT[0] };
        write_all_at(&*self.file, &next.encode(), at)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| Error::io("write", &self.path, source))?;
        self.slot = next;
        Ok(())
    }
}
