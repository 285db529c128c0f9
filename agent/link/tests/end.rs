//! How the two ends of the socket end.

mod support;

use std::time::{Duration, Instant};

use mast_link::{BrokerReason, Error};
use support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_takes_its_uplink_along() {
    let broker = Mosquitto::start();
    let mut uplink = Uplink::start(config(broker.port), &MemoryOutbox::new());
    uplink.until("connected", |state| state.connected).await;
    let ended = uplink.kill_agent().await;
    assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_box_is_announced_by_the_brokers_will() {
    let broker = Mosquitto::start();
    let mut hub = Hub::start(broker.port, Acks::None);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    let mut config = config(broker.port);
    config.hub.will_delay_s = 1;
    let mut uplink = Uplink::start(config, &MemoryOutbox::new());
    uplink.until("connected", |state| state.connected).await;
    hub.until("the birth", |hub| hub.states.len() == 1).await;
    drop(uplink.kill_agent().await);
    let received = hub.until("the will", |hub| hub.states.len() == 2).await;
    assert_eq!(received.states[1], r#"{"v":1,"online":false,"epoch":"feed000000000001"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_the_end_comes_at_once() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let outbox = MemoryOutbox::new();
    outbox.append(record(1));
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    let state = uplink.until("a failed attempt", |state| state.counts.disconnects > 1).await;
    assert_eq!((state.connected, state.reason), (false, BrokerReason::Unreachable));
    let start = Instant::now();
    uplink.stop(Duration::from_secs(30)).await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(outbox.held(), 1);
    broker.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_hub_the_end_comes_within_its_budget() {
    let broker = Mosquitto::start();
    let outbox = MemoryOutbox::new();
    outbox.append(record(1));
    let mut uplink = Uplink::start(config(broker.port), &outbox);
    uplink.until("the record sent", |state| state.counts.published == 1).await;
    let start = Instant::now();
    uplink.stop(Duration::from_millis(500)).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(outbox.held(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_a_missing_file_have_names() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    };
    // An empty password file: nobody may enter.
    let users = file("users", "");
    let broker = Mosquitto::start_with(&format!("allow_anonymous false\npassword_file {}", users.display()));
    let mut config = config(broker.port);
    config.hub.username = Some("box-1".to_owned());
    for (path, wanted) in [
        (file("password", "secret\n"), [BrokerReason::NotAuthorised, BrokerReason::Credentials]),
        (dir.path().join("absent"), [BrokerReason::CredentialFile; 2]),
    ] {
        config.hub.password_file = Some(path);
        let mut uplink = Uplink::start(config.clone(), &MemoryOutbox::new());
        let state = uplink.until("a refusal", |state| state.counts.disconnects > 0).await;
        assert!(wanted.contains(&state.reason), "{state:?}");
        uplink.stop(Duration::from_secs(5)).await;
    }
}
