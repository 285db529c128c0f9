//! The public API on a real disk.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests, and a child that reports to its parent"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use mast_journal::{Error, IndexState, Stream, StreamConfig};

fn open(dir: &Path) -> (Stream, mast_journal::Opened) {
    Stream::open(dir, StreamConfig::default()).unwrap()
}

#[test]
fn a_second_opener_is_told_that_it_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, _) = open(dir.path());
    let error = Stream::open(dir.path(), StreamConfig::default()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    let clone = stream.clone();
    drop(stream);
    assert!(Stream::open(dir.path(), StreamConfig::default()).is_err());
    drop(clone);
    open(dir.path());
}

#[test]
fn limits_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, _) = open(dir.path());
    let text = stream.append_blocking(vec![0; (256 << 10) + 1]).unwrap_err().to_string();
    assert_eq!(
        text,
        "a record of 262145 bytes is over the limit of 262144: split it or raise record_limit_bytes"
    );
    let text = stream.acknowledge(1).unwrap_err().to_string();
    assert_eq!(text, "cannot acknowledge up to 1: the last committed record is 0");
    drop(stream);
    let bad = StreamConfig { quota_bytes: 1, ..StreamConfig::default() };
    assert!(matches!(Stream::open(dir.path(), bad), Err(Error::Config { .. })));
}

#[test]
fn many_tasks_append_and_one_reader_sees_every_record_once_in_order() {
    const TASKS: u64 = 16;
    const EACH: u64 = 50;
    let dir = tempfile::tempdir().unwrap();
    let config = StreamConfig { segment_bytes: 4096, record_limit_bytes: 4096, ..StreamConfig::default() };
    let (stream, _) = Stream::open(dir.path(), config).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let (mut seqs, read) = runtime.block_on(async {
        let reader = tokio::spawn(read_all(stream.clone(), TASKS * EACH));
        let append = |task: u64| {
            let stream = stream.clone();
            tokio::spawn(async move {
                let mut seqs = Vec::new();
                for number in 0..EACH {
                    let record = (task * EACH + number).to_le_bytes().to_vec();
                    seqs.push((stream.append(record.clone()).await.unwrap(), record));
                }
                seqs
            })
        };
        let mut seqs = Vec::new();
        for task in (0..TASKS).map(append).collect::<Vec<_>>() {
            seqs.extend(task.await.unwrap());
        }
        (seqs, reader.await.unwrap())
    });
    seqs.sort_unstable();
    assert_eq!(read, seqs);
    assert!(read.iter().zip(1..).all(|((seq, _), expected)| *seq == expected));
    let status = stream.status();
    assert_eq!((status.pending_records, status.acked_seq, status.oldest_pending), (0, TASKS * EACH, None));
    assert!(status.disk_bytes <= 4096 * 2, "{}", status.disk_bytes);
    assert!(status.bytes_written > TASKS * EACH * 24);
}

async fn read_all(stream: Stream, count: u64) -> Vec<(u64, Vec<u8>)> {
    let mut read = Vec::new();
    let mut last = 0;
    while last < count {
        stream.committed(last).await.unwrap();
        let stream = stream.clone();
        let from = last + 1;
        let batch = tokio::task::spawn_blocking(move || {
            let batch = stream.take(from, 37, 10_000).unwrap();
            stream.acknowledge(batch.last().unwrap().0).unwrap();
            batch
        });
        read.extend(batch.await.unwrap());
        last = read.last().map_or(0, |(seq, _)| *seq);
    }
    read
}

#[test]
fn a_killed_process_loses_nothing_that_it_was_told_is_stored() {
    if let Some(dir) = std::env::var_os("JOURNAL_TEST_CHILD") {
        append_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut epoch, mut stored) = (None, 0);
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_loses_nothing_that_it_was_told_is_stored", "--nocapture"])
            .env("JOURNAL_TEST_CHILD", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let answered = |line: String| line.strip_prefix("stored ").and_then(|seq| seq.parse::<u64>().ok());
        let mut told = 0;
        while told < stored + 200 {
            told = lines.next().unwrap().map(answered).unwrap().unwrap_or(told);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        stored = lines.filter_map(|line| answered(line.unwrap())).last().unwrap_or(told);

        let (stream, opened) = open(dir.path());
        assert_eq!(*epoch.get_or_insert(opened.epoch), opened.epoch);
        assert_eq!((opened.gaps.len(), opened.created), (0, false));
        let taken = stream.take(1, usize::MAX, usize::MAX).unwrap();
        assert!(
            taken
                .iter()
                .zip(1..)
                .all(|((seq, record), expected)| *seq == expected && record[..8] == seq.to_le_bytes())
        );
        assert!(u64::try_from(taken.len()).unwrap() >= stored, "{} of {stored}", taken.len());
        stored = u64::try_from(taken.len()).unwrap();
    }
}

fn append_until_killed(dir: &Path) -> ! {
    let (stream, _) = open(dir);
    let stream = Arc::new(stream);
    loop {
        let next = stream.status().next_seq;
        let mut record = next.to_le_bytes().to_vec();
        record.resize(200, 7);
        println!("stored {}", stream.append_blocking(record).unwrap());
    }
}

#[test]
fn an_index_in_good_health_is_kept_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let (stream, opened) = open(dir.path());
        assert_eq!((opened.index, opened.records, opened.created), (IndexState::Intact, round, round == 0));
        stream.append_blocking(vec![1; 10]).unwrap();
    }
    assert!(!dir.path().join("quarantine-1").exists());
    assert_eq!(std::fs::metadata(dir.path().join("reserve")).unwrap().len(), 1 << 20);
}
