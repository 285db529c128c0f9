//! The way out against a real broker: what is accepted is never lost, and nothing but the hub frees it.

mod support;

use std::time::Duration;

use egress::{Body, GapReason};
use mast_link::{BrokerReason, UplinkState};
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn records_reach_the_hub_and_are_freed_by_it() {
    let broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    let mut hub = Hub::start(broker.port, Acks::Signed);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    for requests in 1..=1_000 {
        outbox.append(record(requests));
    }
    let received = hub.until("1000 records", |hub| hub.upto_seq == 1_000).await;
    assert_eq!(received.requests, 500_500);
    let state = uplink.until("everything acknowledged", |state| state.acknowledged_seq == 1_000).await;
    assert_eq!((state.connected, state.counts.connects, state.counts.bad_acks), (true, 1, 0));
    outbox.append(record(1));
    uplink.stop(Duration::from_secs(10)).await;
    assert_eq!(outbox.held(), 0, "what is pending at the end is sent, and freed");
    let received = hub.until("birth and goodbye", |hub| hub.states.len() == 2).await;
    assert_eq!(received.upto_seq, 1_001);
    assert_eq!(
        received.states,
        [
            r#"{"v":1,"online":true,"epoch":"feed000000000001","boot":"0000000000000007","agent":"0.1.0","proto":1,"jurisdiction":"DE-BY","caps":["metrics"]}"#,
            r#"{"v":1,"online":false,"epoch":"feed000000000001"}"#,
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_three_times_under_load_loses_nothing() {
    const RECORDS: u64 = 10_000;
    let mut broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    let mut hub = Hub::start(broker.port, Acks::Signed);
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    for killed_at in [2_500, 5_000, 7_500] {
        for _ in 0..2_500 {
            outbox.append(record(1));
        }
        hub.until("most records", |hub| hub.upto_seq >= killed_at - 1_000).await;
        broker.kill();
        broker.restart();
    }
    for _ in 0..2_500 {
        outbox.append(record(1));
    }
    let received = hub.until("all records", |hub| hub.upto_seq == RECORDS).await;
    let state = uplink.until("everything acknowledged", |state| state.acknowledged_seq == RECORDS).await;
    assert_eq!(received.requests, RECORDS, "each record counts once");
    assert!(received.seqs.iter().copied().eq(1..=RECORDS), "the sequence has no hole");
    assert_eq!(outbox.held(), 0);
    assert_eq!(state.counts.skipped, 0);
    assert!(state.counts.connects >= 4, "{state:?}");
    println!("duplicates {}, {:?}", received.duplicates, state.counts);
    uplink.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_away_frees_nothing_and_gets_all_when_it_comes() {
    let broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    for _ in 0..1_000 {
        outbox.append(record(1));
    }
    let state = uplink.until("PUBACKs without a hub", |state| state.counts.unheard > 8).await;
    assert_eq!((outbox.held(), state.acknowledged_seq), (1_000, 0), "a PUBACK frees nothing");
    let said = state.detail.unwrap_or_default();
    assert!(said.contains("no hub is subscribed"), "{said}");
    let mut hub = Hub::start(broker.port, Acks::Signed);
    let received = hub.until("all records", |hub| hub.upto_seq == 1_000).await;
    assert_eq!(received.requests, 1_000);
    uplink.until("everything acknowledged", |state| state.acknowledged_seq == 1_000).await;
    uplink.stop(Duration::from_secs(10)).await;
    assert_eq!(outbox.held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_acknowledgements_free_nothing() {
    let broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    let mut hub = Hub::start(broker.port, Acks::None);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    for _ in 0..100 {
        outbox.append(record(1));
    }
    hub.until("all records", |hub| hub.upto_seq == 100).await;
    let silent =
        |state: &UplinkState| state.detail.as_ref().is_some_and(|said| said.contains("acknowledges nothing"));
    uplink.until("a word about the silent hub", silent).await;
    let thief = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let other_epoch = signed_ack(&hub_key(), EPOCH + 1, 100);
    let changed = String::from_utf8(signed_ack(&hub_key(), EPOCH, 9)).unwrap().replace(":9,", ":100,");
    let forged = [signed_ack(&thief, EPOCH, 100), other_epoch, changed.into_bytes(), b"{}".to_vec()];
    for (count, ack) in (1..).zip(forged) {
        publish(broker.port, topics().ack(), ack, false).await;
        let state = uplink.until("the forged ack", |state| state.counts.bad_acks == count).await;
        assert_eq!((state.acknowledged_seq, state.counts.acks), (0, 0));
        assert_eq!(outbox.held(), 100);
    }
    publish(broker.port, topics().ack(), signed_ack(&hub_key(), EPOCH, 60), false).await;
    let state = uplink.until("the real one", |state| state.acknowledged_seq == 60).await;
    assert_eq!((state.reason, state.detail), (BrokerReason::Connected, None));
    uplink.stop(Duration::from_millis(300)).await;
    assert_eq!(outbox.held(), 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_already_has_everything_frees_a_backlog_larger_than_the_window() {
    let broker = Mosquitto::start();
    let mut hub = Hub::start(broker.port, Acks::Signed);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    // The acknowledgements of the first life are lost with it: the second finds all its records again.
    for _ in 0..2 {
        let outbox = MemoryOutbox::new();
        for _ in 0..2_000 {
            outbox.append(record(1));
        }
        let mut uplink = Uplink::start(config(broker.port), &outbox);
        let state = uplink.until("everything acknowledged", |state| state.acknowledged_seq == 2_000).await;
        assert_eq!(state.counts.bad_acks, 0);
        uplink.stop(Duration::from_secs(10)).await;
        assert_eq!(outbox.held(), 0);
    }
    assert_eq!(hub.received.borrow().requests, 2_000, "each record counts once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversize_packet_from_the_broker_does_not_loop() {
    let broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    // Retained: it waits at every subscription, as the poison message of the field did.
    publish(broker.port, topics().ack(), vec![b'x'; 300 * 1024], true).await;
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    uplink.until("connected", |state| state.connected).await;
    outbox.append(record(1));
    let mut hub = Hub::start(broker.port, Acks::Signed);
    hub.until("the record", |hub| hub.upto_seq == 1).await;
    let state = uplink.until("everything acknowledged", |state| state.acknowledged_seq == 1).await;
    assert_eq!((state.counts.connects, state.counts.disconnects), (1, 0));
    uplink.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_record_never_reach_the_broker() {
    const SECRET: &str = "patient-4711";
    let broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    let mut hub = Hub::start(broker.port, Acks::Signed);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    let real = String::from_utf8(record(1)).unwrap();
    outbox.append(real.clone().into_bytes());
    outbox.append(SECRET.as_bytes().to_vec());
    outbox.append(format!(r#"{{"v":1,"body":{{"note":"{SECRET}"}}}}"#).into_bytes());
    outbox.append(real.replacen('{', &format!(r#"{{"note":"{SECRET}","#), 1).into_bytes());
    outbox.append(real.replace("efficientnet-lite0", &format!("{SECRET} x")).into_bytes());
    outbox.append(format!("{real} {SECRET}").into_bytes());
    outbox.append([&b"\xff\xfe"[..], SECRET.as_bytes()].concat());
    outbox.append(real.into_bytes());
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    let received = hub.until("all numbers", |hub| hub.upto_seq == 8).await;
    let text = String::from_utf8(received.bytes.clone()).unwrap();
    assert!(!text.contains(SECRET), "{text}");
    for seq in 2..=7 {
        match &received.bodies[&seq] {
            Body::Gap(gap) => {
                assert_eq!((gap.first_seq, gap.last_seq, gap.reason), (seq, seq, GapReason::Unreadable))
            }
            other => panic!("{seq}: {other:?}"),
        }
    }
    assert_eq!(received.requests, 2);
    let state = uplink.until("everything acknowledged", |state| state.acknowledged_seq == 8).await;
    assert_eq!(state.counts.rejected, 6);
    uplink.stop(Duration::from_secs(10)).await;
    assert_eq!(outbox.held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_folded_before_they_were_sent_hold_nothing_up() {
    let broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    let mut hub = Hub::start(broker.port, Acks::None);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    // 1 to 5 are sent; then 3 to 8 are folded into 12 while the hub is silent.
    for _ in 1..=5 {
        outbox.append(record(1));
    }
    let uplink = Uplink::start(config(broker.port), &outbox);
    hub.until("five records", |hub| hub.upto_seq == 5).await;
    for _ in 6..=11 {
        outbox.append(record(1));
    }
    hub.until("all of them", |hub| hub.upto_seq == 11).await;
    outbox.fold(3, 8);
    drop(hub);
    uplink.stop(Duration::ZERO).await;

    let mut hub = Hub::start(broker.port, Acks::Signed);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    let received = hub.until("the roll-up", |hub| hub.upto_seq == 12).await;
    match &received.bodies[&12] {
        Body::Rollup(rollup) => {
            assert_eq!((rollup.first_seq, rollup.last_seq, rollup.records), (3, 8, 6));
            assert_eq!(received.requests + rollup.models[0].counters.requests, 11);
        }
        other => panic!("{other:?}"),
    }
    let state = uplink.until("everything acknowledged", |state| state.acknowledged_seq == 12).await;
    assert_eq!(state.counts.skipped, 6);
    uplink.stop(Duration::from_secs(10)).await;
    assert_eq!(outbox.held(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_small_packets_gets_small_batches() {
    let broker = Mosquitto::start_with("max_packet_size 4096\nmax_inflight_messages 3");
    let outbox = MemoryOutbox::new();
    let mut hub = Hub::start(broker.port, Acks::Signed);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    for _ in 0..500 {
        outbox.append(record(1));
    }
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    let state = uplink.until("everything acknowledged", |state| state.acknowledged_seq == 500).await;
    assert_eq!((state.counts.connects, state.counts.disconnects), (1, 0));
    uplink.stop(Duration::from_secs(10)).await;
}
