use egress::{Body, ClockState, Counters, Ident, Interval, Provider, RollupBuilder};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn record() -> Vec<u8> {
    Record::from(Interval {
        model: Ident::derive("m"),
        version: Ident::derive("1"),
        provider: Provider::Cpu,
        start_unix_ms: 0,
        end_unix_ms: 0,
        clock: ClockState::Unknown,
        duration_ms: 0,
        counters: Counters::default(),
    })
    .encode()
    .unwrap()
}

fn push(window: &mut Window, seqs: impl IntoIterator<Item = u64>) {
    let taken = window.push(seqs.into_iter().map(|seq| (seq, record()))).unwrap();
    assert_eq!(taken, Taken::default());
}

/// Publishes all that is to be sent; the first number of each batch.
fn send(window: &mut Window, now: Instant) -> Vec<u64> {
    let mut firsts = Vec::new();
    while let Some(outgoing) = window.to_send().unwrap() {
        firsts.push(Batch::decode(&outgoing.payload).unwrap().first_seq);
        window.published(now);
    }
    firsts
}

/// Four batches of one record, sent at `now`.
fn four_sent(now: Instant) -> Window {
    let mut window = Window::new(1, 4, SECOND);
    (1..=4).for_each(|seq| push(&mut window, [seq]));
    assert_eq!(send(&mut window, now), [1, 2, 3, 4]);
    window
}

#[test]
fn more_is_taken_only_while_there_is_room() {
    let now = Instant::now();
    let mut window = Window::new(1, 2, SECOND);
    assert_eq!(window.wants(), Some(0));
    push(&mut window, 5..=9);
    assert_eq!(window.wants(), Some(10));
    push(&mut window, [10]);
    assert_eq!(window.wants(), None);
    send(&mut window, now);
    assert_eq!(window.acknowledge(7, now), Acked::Freed { upto_seq: 7 });
    assert_eq!((window.wants(), window.pending_records()), (None, 3));
    assert_eq!(window.acknowledge(9, now), Acked::Freed { upto_seq: 9 });
    assert_eq!((window.wants(), window.pending_records()), (Some(11), 1));
}

#[test]
fn an_acknowledgement_frees_only_what_was_published() {
    let now = Instant::now();
    let mut window = four_sent(now);
    push(&mut window, [5]);
    assert_eq!(window.acknowledge(0, now), Acked::Nothing);
    assert_eq!(window.acknowledge(2, now), Acked::Freed { upto_seq: 2 });
    // A hub that had 9 before a restart: what is published here is freed, and no more.
    assert_eq!(window.acknowledge(9, now), Acked::Freed { upto_seq: 4 });
    assert_eq!(window.acknowledge(9, now), Acked::Nothing);
    assert_eq!(window.pending_records(), 1);
}

#[test]
fn without_progress_all_is_sent_once_more_and_then_only_the_lowest() {
    let start = Instant::now();
    let mut window = four_sent(start);
    let mut now = start;
    for (wait_s, again) in [(1, vec![1, 2, 3, 4]), (2, vec![1]), (4, vec![1]), (8, vec![1])] {
        let due = window.due().unwrap();
        assert_eq!(due - now, wait_s * SECOND);
        now = due;
        window.resend(now);
        assert_eq!(send(&mut window, now), again);
    }
    (0..10).for_each(|_| window.resend(now));
    assert_eq!(window.due().unwrap() - now, Duration::from_secs(60));
    // The hub is heard, though it has nothing new: all goes at once.
    assert_eq!(window.acknowledge(0, now), Acked::Nothing);
    assert_eq!(send(&mut window, now), [1, 2, 3, 4]);
    assert_eq!(window.due().unwrap() - now, SECOND);
    assert_eq!(window.acknowledge(4, now), Acked::Freed { upto_seq: 4 });
    assert_eq!(window.due(), None);
}

#[test]
fn a_reconnection_sends_all_again_cut_to_the_brokers_packets() {
    let now = Instant::now();
    let mut window = Window::new(1, 8, SECOND);
    push(&mut window, 1..=100);
    assert_eq!(send(&mut window, now), [1, 65]);
    window.connected(Some(2_048));
    while let Some(outgoing) = window.to_send().unwrap() {
        assert!(outgoing.payload.len() <= 2_048 - 512, "{}", outgoing.payload.len());
        assert!(outgoing.again);
        window.published(now);
    }
    window.connected(None);
    assert_eq!(send(&mut window, now), [1, 65]);
}

#[test]
fn what_is_no_record_leaves_as_a_gap_and_what_is_skipped_is_counted() {
    let mut window = Window::new(1, 8, SECOND);
    let mut builder = RollupBuilder::new();
    builder.add(3, &record());
    let rollup = builder.finish(3, 4).unwrap();
    let stored = [(1, record()), (2, b"secret".to_vec()), (5, record()), (6, rollup), (6, record())];
    let taken = window.push(stored).unwrap();
    assert_eq!(taken, Taken { rejected: vec![2], skipped: 2 });
    let batch = Batch::decode(&window.to_send().unwrap().unwrap().payload).unwrap();
    let seqs: Vec<_> = batch.records.iter().map(|record| record.seq).collect();
    assert_eq!((batch.oldest_seq, seqs), (1, vec![1, 2, 5, 6]));
    assert!(matches!(&batch.records[1].record.body, Body::Gap(gap) if gap.reason == GapReason::Unreadable));
}
