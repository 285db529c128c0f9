//! One test for each thing that happens in the field.

use std::io;

use super::{Bench, corrupt_index, fill, numbers, payload};
use crate::format::parse_segment_name;
use crate::{Error, Fold, Gap, IndexState, Stream, StreamConfig, shared::Shared};

const RECORD: usize = 116;

fn gaps(ranges: &[(u64, u64)]) -> Vec<Gap> {
    ranges.iter().map(|&(first, last)| Gap { first, last }).collect()
}

#[test]
fn a_torn_tail_is_cut_off_and_the_rest_is_there() {
    for torn_bytes in [1, 15, 16, 17, RECORD - 1] {
        let bench = Bench::new();
        let (stream, _) = bench.open();
        fill(&stream, 1..=5);
        // The commit of record 6 fails after most of it was written, and the power goes.
        bench.disk.world().failing_syncs = 1;
        bench.disk.world().failing_truncates = true;
        assert!(matches!(stream.append_blocking(payload(6, 100)), Err(Error::Io { operation: "sync", .. })));
        bench.disk.world().failing_truncates = false;
        drop(stream);
        bench.disk.world().power_cut(torn_bytes);
        let (stream, opened) = bench.open();
        assert_eq!(
            (opened.truncated_bytes, opened.records),
            (u64::try_from(torn_bytes).unwrap(), 5),
            "{torn_bytes}"
        );
        assert_eq!(opened.gaps, []);
        let path = bench.segments()[0].clone();
        assert_eq!(bench.disk.world().len(&path), 32 + 5 * RECORD);
        fill(&stream, 6..=7);
        assert_eq!(numbers(&stream), [1, 2, 3, 4, 5, 6, 7]);
    }
}

#[test]
fn a_record_that_a_reader_saw_does_not_vanish_at_the_next_power_cut() {
    let bench = Bench::new();
    let (stream, _) = bench.open();
    fill(&stream, 1..=5);
    bench.disk.world().failing_syncs = 1;
    bench.disk.world().failing_truncates = true;
    stream.append_blocking(payload(6, 100)).unwrap_err();
    bench.disk.world().failing_truncates = false;
    drop(stream);
    // The process was killed, not the machine: record 6 is in the page cache only.
    let (stream, _) = bench.open();
    assert_eq!(numbers(&stream).last(), Some(&6));
    drop(stream);
    bench.disk.world().power_cut(0);
    let (stream, _) = bench.open();
    assert_eq!(numbers(&stream).last(), Some(&6));
}

#[test]
fn a_corrupt_record_costs_itself_and_nothing_else() {
    // (segment, byte in it, what is lost); a small segment holds 9 records of 116 bytes behind its 32 bytes of header
    let cases = [
        (0, 32 + 3 * RECORD, vec![(4, 4)]),
        (0, 32 + 3 * RECORD + 60, vec![(4, 4)]),
        (0, 32, vec![(1, 1)]),
        (0, 32 + 8 * RECORD + 115, vec![(9, 9)]),
        (0, 5, vec![]),
        (1, 32 + RECORD + 8, vec![(11, 11)]),
        (2, 32 + RECORD + 20, vec![(20, 20)]),
    ];
    for (segment, byte, lost) in cases {
        for (open_meanwhile, index_lost) in [(true, false), (false, false), (false, true)] {
            let bench = Bench::new();
            let (mut stream, _) = bench.open();
            fill(&stream, 1..=23);
            let what =
                format!("segment {segment} byte {byte}, open {open_meanwhile}, index lost {index_lost}");
            let path = bench.segments()[segment].clone();
            if open_meanwhile {
                bench.disk.world().flip(&path, byte);
            } else {
                drop(stream);
                bench.disk.world().flip(&path, byte);
                if index_lost {
                    std::fs::remove_dir_all(bench.dir().join("index")).unwrap();
                }
                let opened;
                (stream, opened) = bench.open();
                // A segment that the index covers is found damaged only when it is read.
                if index_lost || segment == 2 {
                    assert_eq!(opened.gaps, gaps(&lost), "{what}");
                }
            }
            let left: Vec<u64> = (1..=23)
                .filter(|seq| !lost.iter().any(|(first, last)| (first..=last).contains(&seq)))
                .collect();
            assert_eq!(numbers(&stream), left, "{what}");
            assert_eq!(stream.status().gaps, gaps(&lost), "{what}");
            fill(&stream, 24..=24);
            stream.acknowledge(24).unwrap();
            assert_eq!(stream.status().gaps, [], "{what}");
        }
    }
}

#[test]
fn a_bad_sector_costs_the_records_on_it() {
    let mut bench = Bench::new();
    bench.config.segment_bytes = 16 * 1024;
    bench.config.quota_bytes = 64 * 1024;
    let (stream, _) = bench.open();
    fill(&stream, 1..=200);
    let path = bench.segments()[0].clone();
    bench.disk.world().bad_sectors.insert((path, 1));
    // Bytes 4096..8192 of the file: records 36 (from byte 4092) to 71 (to byte 8268).
    let left: Vec<u64> = (1..=35).chain(72..=200).collect();
    for _ in 0..2 {
        assert_eq!(numbers(&stream), left);
        assert_eq!(stream.status().gaps, gaps(&[(36, 71)]));
    }
}

#[test]
fn a_payload_that_is_the_image_of_a_record_is_not_taken_for_one() {
    let bench = Bench::new();
    let (stream, opened) = bench.open();
    let mut image = Vec::new();
    crate::format::put_record(&mut image, opened.epoch ^ 1, 3, false, b"forged");
    fill(&stream, 1..=1);
    stream.append_blocking(image).unwrap();
    fill(&stream, 3..=4);
    let path = bench.segments()[0].clone();
    bench.disk.world().flip(&path, 32 + RECORD);
    assert_eq!(numbers(&stream), [1, 3, 4]);
}

#[test]
fn a_lost_tail_of_committed_records_is_a_gap_and_its_numbers_stay_used() {
    let bench = Bench::new();
    let (stream, _) = bench.open();
    fill(&stream, 1..=23);
    drop(stream);
    let path = bench.segments()[2].clone();
    bench.disk.world().cut(&path, 32 + RECORD);
    let (stream, opened) = bench.open();
    assert_eq!(opened.gaps, gaps(&[(20, 23)]));
    fill(&stream, 24..=25);
    drop(stream);
    let (stream, opened) = bench.open();
    assert_eq!(opened.gaps, gaps(&[(20, 23)]));
    assert_eq!(numbers(&stream).last(), Some(&25));
    assert_eq!(stream.status().pending_records, 21);
}

#[test]
fn a_lost_segment_in_the_middle_is_a_gap() {
    for open_meanwhile in [true, false] {
        let bench = Bench::new();
        let (mut stream, _) = bench.open();
        fill(&stream, 1..=23);
        let path = bench.segments()[1].clone();
        bench.disk.world().remove(&path);
        if !open_meanwhile {
            drop(stream);
            let opened;
            (stream, opened) = bench.open();
            assert_eq!(opened.gaps, gaps(&[(10, 18)]));
        }
        let left: Vec<u64> = (1..=9).chain(19..=23).collect();
        assert_eq!(numbers(&stream), left);
        assert_eq!(stream.status().gaps, gaps(&[(10, 18)]));
        stream.acknowledge(23).unwrap();
    }
}

#[test]
fn a_corrupt_index_is_quarantined_and_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=10 {
        let (stream, opened) = Stream::open(dir.path(), StreamConfig::default()).unwrap();
        assert_eq!(
            matches!(&opened.index, IndexState::Rebuilt { reason } if !reason.is_empty()),
            round > 1,
            "{opened:?}"
        );
        assert_eq!(opened.records, round - 1);
        fill(&stream, round..=round);
        assert_eq!(numbers(&stream), (1..=round).collect::<Vec<_>>());
        drop(stream);
        corrupt_index(dir.path());
    }
    // The newest eight are kept for whoever wants to know why.
    let kept =
        (1..=9).filter(|n| dir.path().join(format!("quarantine-{n}/index/db")).exists()).collect::<Vec<_>>();
    assert_eq!(kept, (2..=9).collect::<Vec<_>>());
}

#[test]
fn an_index_that_cannot_be_made_costs_speed_and_no_record() {
    let bench = Bench::new();
    let (stream, _) = bench.open();
    fill(&stream, 1..=23);
    drop(stream);
    std::fs::remove_dir_all(bench.dir().join("index")).unwrap();
    std::os::unix::fs::symlink("/proc/version", bench.dir().join("index")).unwrap();
    // Not even the quarantine can be made.
    std::fs::File::create(bench.dir().join("quarantine-1")).unwrap();
    std::fs::File::create(bench.dir().join("quarantine-x")).unwrap();
    let (stream, opened) = bench.open();
    assert_eq!(opened.records, 23);
    assert!(!matches!(opened.index, IndexState::Intact), "{:?}", opened.index);
    fill(&stream, 24..=24);
    assert_eq!(numbers(&stream), (1..=24).collect::<Vec<_>>());
    stream.acknowledge(24).unwrap();
}

#[test]
fn a_full_disk_refuses_appends_and_can_be_drained_and_reopened() {
    for reopen in [false, true] {
        let bench = Bench::new();
        let (mut stream, _) = bench.open();
        bench.disk.world().capacity = 16 * 1024;
        let mut stored = 0;
        let error = loop {
            match stream.append_blocking(payload(stored + 1, 100)) {
                Ok(seq) => stored = seq,
                Err(error) => break error,
            }
            if stored == 20 {
                // Somebody else fills the disk.
                let used = 8192
                    + 512
                    + bench.segments().iter().map(|path| bench.disk.world().len(path)).sum::<usize>()
                    + 200;
                bench.disk.world().capacity = used;
            }
        };
        assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
        assert!(error.to_string().contains("acknowledge records or free space"), "{error}");
        assert!(stream.status().disk_full);
        assert!(matches!(stream.append_blocking(payload(0, 500)), Err(Error::DiskFull { .. })));
        if reopen {
            drop(stream);
            (stream, _) = bench.open();
        }
        assert_eq!(numbers(&stream), (1..=stored).collect::<Vec<_>>());
        stream.acknowledge(stored).unwrap();
        assert!(!stream.status().disk_full);
        fill(&stream, stored + 1..=stored + 3);
        assert_eq!(numbers(&stream), (stored + 1..=stored + 3).collect::<Vec<_>>());
    }
}

#[test]
fn a_failed_fdatasync_is_never_reported_as_success() {
    for failing_truncates in [false, true] {
        let bench = Bench::new();
        let (stream, _) = bench.open();
        fill(&stream, 1..=3);
        bench.disk.world().failing_truncates = failing_truncates;
        bench.disk.world().failing_syncs = 2;
        for _ in 0..2 {
            let error = stream.append_blocking(payload(99, 100)).unwrap_err();
            assert!(matches!(error, Error::Io { operation: "sync" | "create", .. }), "{error:?}");
        }
        fill(&stream, 4..=5);
        assert_eq!(bench.segments().len(), 2, "a new segment");
        assert_eq!(numbers(&stream), [1, 2, 3, 4, 5]);
        bench.disk.world().failing_truncates = false;
        drop(stream);
        for _ in 0..2 {
            let (stream, opened) = bench.open();
            assert_eq!(opened.gaps, []);
            assert_eq!(numbers(&stream), [1, 2, 3, 4, 5]);
            drop(stream);
            std::fs::remove_dir_all(bench.dir().join("index")).unwrap();
        }
    }
}

#[test]
fn a_write_cut_short_leaves_no_trace() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let bench = Bench::new();
        let (stream, _) = bench.open();
        fill(&stream, 1..=3);
        bench.disk.world().torn_write = Some(kind);
        stream.append_blocking(payload(99, 100)).unwrap_err();
        drop(stream);
        let (stream, opened) = bench.open();
        assert_eq!((opened.truncated_bytes, opened.records), (0, 3));
        fill(&stream, 4..=4);
    }
}

#[test]
fn a_read_only_directory_is_a_clear_error() {
    let bench = Bench::new();
    bench.disk.world().read_only = true;
    let text = bench.try_open().unwrap_err().to_string();
    assert_eq!(text, format!("cannot create the directory {}", bench.dir().display()));
    let occupied = bench.dir().join("file");
    std::fs::File::create(&occupied).unwrap();
    let error = Stream::open(&occupied.join("stream"), StreamConfig::default()).unwrap_err();
    assert!(matches!(error, Error::Io { operation: "create the directory", .. }), "{error:?}");
}

#[test]
fn a_lost_stream_gets_a_new_epoch_and_no_old_row_is_believed() {
    let bench = Bench::new();
    let (stream, first) = bench.open();
    fill(&stream, 1..=23);
    drop(stream);
    for path in bench.segments() {
        bench.disk.world().remove(&path);
    }
    let (stream, second) = bench.open();
    assert!(second.created && second.epoch != first.epoch, "{second:?}");
    assert_eq!((second.records, stream.status().next_seq), (0, 1));
    fill(&stream, 1..=2);
    assert_eq!(numbers(&stream), [1, 2]);
}

#[test]
fn the_epoch_outlives_the_loss_of_header_and_cursor() {
    for lost in ["stream.toml", "cursor"] {
        let bench = Bench::new();
        let (stream, first) = bench.open();
        fill(&stream, 1..=12);
        stream.acknowledge(10).unwrap();
        drop(stream);
        bench.disk.world().remove(&bench.dir().join(lost));
        let (stream, second) = bench.open();
        assert_eq!((second.epoch, second.created), (first.epoch, false), "{lost}");
        // Without a cursor the reader sees again what shares a segment with what it has not seen.
        let left: Vec<u64> = if lost == "cursor" { (10..=12).collect() } else { vec![11, 12] };
        assert_eq!(numbers(&stream), left, "{lost}");
    }
}

#[test]
fn segments_of_another_stream_are_set_aside() {
    let (bench, other) = (Bench::new(), Bench::new());
    let (stream, _) = other.open();
    fill(&stream, 1..=1);
    drop(stream);
    let (stream, opened) = bench.open();
    fill(&stream, 1..=12);
    stream.acknowledge(9).unwrap();
    drop(stream);
    let alien = {
        let file =
            crate::disk::Disk::open(&*other.disk, &other.segments()[0], crate::disk::Mode::Read).unwrap();
        let mut bytes = vec![0; 200];
        let len = file.read_at(&mut bytes, 0).unwrap();
        bytes[..len].to_vec()
    };
    crate::atomic::write_on(&*bench.disk, &bench.dir().join(crate::format::segment_name(1)), &alien).unwrap();
    let (stream, again) = bench.open();
    assert_eq!((again.epoch, again.gaps), (opened.epoch, vec![]));
    assert_eq!(numbers(&stream), [10, 11, 12]);
    assert_eq!(bench.segments().iter().filter(|path| path.starts_with(bench.dir())).count(), 1);
}

#[test]
fn another_version_is_refused_and_nothing_is_changed() {
    let bench = Bench::new();
    drop(bench.open());
    let path = bench.dir().join("stream.toml");
    crate::atomic::write_on(&*bench.disk, &path, b"format = 2\n").unwrap();
    let error = bench.try_open().unwrap_err();
    assert!(matches!(error, Error::Format { found: 2, supported: 1, .. }), "{error:?}");
}

#[test]
fn the_quota_refuses_and_a_roll_up_keeps_the_sum() {
    let bench = Bench::new();
    let (stream, _) = bench.open();
    let mut appended = 0;
    let mut fold = Folding::new(|folding: &mut Folding, _| {
        let mut record = std::mem::take(&mut folding.sum).to_le_bytes().to_vec();
        record.resize(100, 0);
        Some(record)
    });
    for number in 1..=1000_u64 {
        let mut record = number.to_le_bytes().to_vec();
        record.resize(100, 0);
        while let Err(error) = stream.append_blocking(record.clone()) {
            assert!(matches!(error, Error::QuotaExceeded { quota_bytes: 8192, .. }), "{error:?}");
            assert!(stream.roll_up(&mut fold, 1024).unwrap().is_some());
        }
        appended += number;
    }
    assert!(fold.ranges.len() > 10);
    assert!(stream.status().disk_bytes <= 8192 + 512 + 48);
    assert_eq!(stream.status().gaps, []);
    let total = |stream: &Stream| {
        stream.take(1, usize::MAX, usize::MAX).unwrap().iter().map(|(_, p)| value(p)).sum::<u64>()
    };
    assert_eq!(total(&stream), appended);
    drop(stream);
    let (stream, opened) = bench.open();
    assert_eq!((total(&stream), opened.gaps), (appended, vec![]));
}

/// Sums the first eight bytes of what is folded, and notes its numbers.
struct Folding {
    sum: u64,
    number: u64,
    seen: Vec<u64>,
    ranges: Vec<(u64, u64)>,
    make: fn(&mut Folding, u64) -> Option<Vec<u8>>,
}

impl Folding {
    fn new(make: fn(&mut Folding, u64) -> Option<Vec<u8>>) -> Self {
        Self { sum: 0, number: 0, seen: Vec::new(), ranges: Vec::new(), make }
    }

    /// Makes the ordinary record of this number.
    fn into(number: u64) -> Self {
        Self { number, ..Self::new(|folding, _| Some(payload(folding.number, 100))) }
    }
}

impl Fold for Folding {
    fn add(&mut self, seq: u64, record: &[u8]) {
        self.seen.push(seq);
        self.sum += value(record);
    }

    fn finish(&mut self, first: u64, last: u64) -> Option<Vec<u8>> {
        self.ranges.push((first, last));
        (self.make)(self, last)
    }
}

fn value(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

#[test]
fn a_crash_in_a_roll_up_leaves_the_old_records_or_the_new_one() {
    // Whether the folding record reached the disk when its commit failed and the power went.
    for reached in [false, true] {
        let bench = Bench::new();
        let (stream, _) = bench.open();
        fill(&stream, 1..=23);
        bench.disk.world().failing_syncs = 1;
        bench.disk.world().failing_truncates = true;
        let mut fold = Folding::into(24);
        let error = stream.roll_up(&mut fold, 1).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        assert_eq!((fold.seen, fold.ranges), ((1..=9).collect(), vec![(1, 9)]));
        drop(stream);
        bench.disk.world().failing_truncates = false;
        bench.disk.world().power_cut(if reached { RECORD } else { RECORD - 1 });
        let (stream, opened) = bench.open();
        let left: Vec<u64> = if reached { (10..=24).collect() } else { (1..=23).collect() };
        assert_eq!(numbers(&stream), left);
        assert_eq!(opened.gaps, []);
        assert_eq!(bench.segments().len(), if reached { 2 } else { 3 });
        // An ordinary record that takes the number of a fold that failed is not mistaken for it.
        fill(&stream, stream.status().next_seq..=30);
        drop(stream);
        let (stream, _) = bench.open();
        assert_eq!(numbers(&stream).first(), left.first());
    }
}

#[test]
fn with_one_segment_only_a_roll_up_seals_it_first_and_nothing_pending_is_none() {
    let bench = Bench::new();
    let (stream, _) = bench.open();
    let mut fold = Folding::into(5);
    assert_eq!(stream.roll_up(&mut fold, 1).unwrap(), None);
    fill(&stream, 1..=4);
    stream.acknowledge(2).unwrap();
    let mut nothing = Folding::new(|_, _| None);
    assert_eq!(stream.roll_up(&mut nothing, u64::MAX).unwrap(), None, "no record was made");
    assert_eq!(numbers(&stream), [3, 4]);
    assert_eq!(stream.roll_up(&mut fold, u64::MAX).unwrap(), Some(5));
    assert_eq!((fold.seen, fold.ranges), (vec![3, 4], vec![(3, 4)]));
    assert_eq!(numbers(&stream), [5]);
}

#[test]
fn marks_stay_few_and_know_the_oldest() {
    let mut marks = crate::shared::Marks::default();
    assert_eq!(marks.oldest(), None);
    marks.commit(1);
    marks.free(5, 10);
    assert!(marks.oldest().is_some());
    marks.free(10, 10);
    assert_eq!(marks.oldest(), None);
    // What is shared crosses threads.
    fn check<T: Send + Sync>() {}
    check::<Shared>();
    check::<Stream>();
    assert_eq!(parse_segment_name("0000000000000000001.seg"), None);
}
