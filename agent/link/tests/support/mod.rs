//! A real mosquitto, a hub, and an outbox in memory.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test helper that fails is a test that fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use egress::{
    Ack, Batch, Body, ClockState, Counters, Egress, FormatVersion, Ident, Interval, Jurisdiction, Provider,
    PublicKey, Record, RollupBuilder, Signature, Signed, Site, Topics, signed_bytes,
};
use mast_link::{
    Config, Error, OutboxError, OutboxSource, UplinkConfig, UplinkState, run_uplink, serve_uplink,
};
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Broker, Event, MqttOptions, PublishOptions, QoS};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const EPOCH: u64 = 0xfeed_0000_0000_0001;
/// Far above what any step takes here, so that a hang is named instead of hanging the run.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// mosquitto on a loopback port of its own, killed when dropped.
pub struct Mosquitto {
    pub port: u16,
    dir: tempfile::TempDir,
    extra: String,
    child: Child,
}

impl Mosquitto {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With `extra` lines in its configuration.
    pub fn start_with(extra: &str) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(&dir, port, extra);
        let broker = Self { port, dir, extra: extra.to_owned(), child };
        broker.wait_until_it_listens();
        broker
    }

    /// As a power cut would: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, with nothing left of what it knew.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, self.port, &self.extra);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&self) {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "mosquitto does not listen on {}", self.port);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A loopback port that nobody listens on just now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn spawn(dir: &tempfile::TempDir, port: u16, extra: &str) -> Child {
    use std::io::Write;
    let path = dir.path().join("mosquitto.conf");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(
        file,
        "per_listener_settings true\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\n{extra}"
    )
    .unwrap();
    // Debian keeps it out of the PATH of ordinary users.
    let search = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new("mosquitto")
        .arg("-c")
        .arg(&path)
        .env("PATH", search)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("these tests need a real broker: apt-get install mosquitto ({error})"))
}

pub fn site() -> Site {
    let ident = |name| Ident::new(name).unwrap();
    Site {
        org: ident("acme"),
        region: ident("eu-1"),
        site: ident("muc-3"),
        box_id: ident("box-1"),
        jurisdiction: Jurisdiction::new("DE-BY").unwrap(),
    }
}

pub fn topics() -> Topics {
    Topics::new(&site())
}

pub fn hub_key() -> SigningKey {
    SigningKey::from_bytes(&[0x5a; 32])
}

pub fn config(port: u16) -> UplinkConfig {
    UplinkConfig {
        hub: Config {
            broker: format!("mqtt://127.0.0.1:{port}"),
            keys: [(Ident::new("hub-1").unwrap(), PublicKey(hub_key().verifying_key().to_bytes()))].into(),
            backoff_min_ms: 10,
            backoff_max_ms: 200,
            resend_after_ms: 200,
            ..Config::default()
        },
        site: site(),
        epoch: EPOCH,
        boot: 7,
        agent: Ident::new("0.1.0").unwrap(),
        caps: vec![egress::Capability::Metrics],
    }
}

pub fn record(requests: u64) -> Vec<u8> {
    let counters = Counters { requests, ..Counters::default() };
    Record::from(Interval {
        model: Ident::new("efficientnet-lite0").unwrap(),
        version: Ident::new("1").unwrap(),
        provider: Provider::Cpu,
        start_unix_ms: 1_790_000_000_000,
        end_unix_ms: 1_790_000_010_000,
        clock: ClockState::Synchronised,
        duration_ms: 10_000,
        counters,
    })
    .encode()
    .unwrap()
}

/// What the journal is to the agent, in memory.
#[derive(Debug)]
pub struct MemoryOutbox {
    records: Mutex<BTreeMap<u64, Vec<u8>>>,
    last: watch::Sender<u64>,
}

impl MemoryOutbox {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { records: Mutex::new(BTreeMap::new()), last: watch::Sender::new(0) })
    }

    pub fn append(&self, bytes: Vec<u8>) -> u64 {
        let seq = *self.last.borrow() + 1;
        self.append_at(seq, bytes)
    }

    /// As the journal does at its quota: the roll-up is appended, then what it stands for is dropped.
    pub fn fold(&self, first: u64, last: u64) {
        let mut builder = RollupBuilder::new();
        let folded: Vec<_> =
            self.records.lock().unwrap().range(first..=last).map(|(s, b)| (*s, b.clone())).collect();
        folded.iter().for_each(|(seq, bytes)| builder.add(*seq, bytes));
        self.append(builder.finish(first, last).unwrap());
        self.records.lock().unwrap().retain(|seq, _| *seq < first || *seq > last);
    }

    pub fn append_at(&self, seq: u64, bytes: Vec<u8>) -> u64 {
        self.records.lock().unwrap().insert(seq, bytes);
        self.last.send_replace(seq);
        seq
    }

    pub fn held(&self) -> usize {
        self.records.lock().unwrap().len()
    }
}

impl OutboxSource for MemoryOutbox {
    fn take(
        &self,
        from: u64,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, OutboxError> {
        let mut bytes = 0;
        let records = self.records.lock().unwrap();
        let taken = records.range(from..).take(limit_records).take_while(|(_, record)| {
            let is_first = bytes == 0;
            bytes += record.len();
            is_first || bytes <= limit_bytes
        });
        Ok(taken.map(|(seq, record)| (*seq, record.clone())).collect())
    }

    fn acknowledge(&self, upto_seq: u64) -> Result<(), OutboxError> {
        let mut records = self.records.lock().unwrap();
        *records = records.split_off(&(upto_seq + 1));
        Ok(())
    }

    fn wait_beyond(&self, seq: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut last = self.last.subscribe();
        Box::pin(async move {
            last.wait_for(|last| *last > seq).await.unwrap();
        })
    }
}

/// Agent's end and child's end, joined by a socket as in life, in one process.
pub struct Uplink {
    pub state: watch::Receiver<UplinkState>,
    stop: watch::Sender<Option<Duration>>,
    parent: JoinHandle<Result<(), Error>>,
    child: JoinHandle<Result<(), Error>>,
}

impl Uplink {
    pub fn start(config: UplinkConfig, outbox: &Arc<MemoryOutbox>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (state_sender, state) = watch::channel(UplinkState::default());
        let (stop, stopped) = watch::channel(None);
        let outbox: Arc<dyn OutboxSource> = Arc::<MemoryOutbox>::clone(outbox);
        Self {
            state,
            stop,
            parent: tokio::spawn(serve_uplink(ours, config, outbox, state_sender, stopped)),
            child: tokio::spawn(run_uplink(theirs)),
        }
    }

    pub async fn until(&mut self, what: &str, condition: impl FnMut(&UplinkState) -> bool) -> UplinkState {
        let found = tokio::time::timeout(PATIENCE, self.state.wait_for(condition)).await;
        if let Ok(Ok(state)) = &found {
            return UplinkState::clone(state);
        }
        let ended = if found.is_ok() { "it ended" } else { "it hangs" };
        drop(found);
        panic!("never {what}, {ended}: {:?}", self.state.borrow())
    }

    pub async fn stop(self, budget: Duration) {
        self.stop.send_replace(Some(budget));
        tokio::time::timeout(PATIENCE, self.parent).await.expect("the agent's end hangs").unwrap().unwrap();
        tokio::time::timeout(PATIENCE, self.child).await.expect("the child's end hangs").unwrap().unwrap();
    }

    /// The agent is gone: its end of the socket closes without a word.
    pub async fn kill_agent(self) -> Result<(), Error> {
        self.parent.abort();
        tokio::time::timeout(PATIENCE, self.child).await.expect("the child's end hangs").unwrap()
    }
}

/// What the hub has.
#[derive(Debug, Default, Clone)]
pub struct Received {
    pub seqs: BTreeSet<u64>,
    pub bodies: BTreeMap<u64, Body>,
    pub batches: u64,
    pub duplicates: u64,
    pub requests: u64,
    pub upto_seq: u64,
    /// Everything on the box's topics, raw.
    pub bytes: Vec<u8>,
    /// Payloads on `…/st`, in order.
    pub states: Vec<String>,
    pub connects: u64,
}

/// What a hub does with a batch that it has.
#[derive(Debug, Clone)]
pub enum Acks {
    Signed,
    None,
}

/// A small hub: keeps what comes, acknowledges the unbroken run. Reconnects for ever.
pub struct Hub {
    pub received: watch::Receiver<Received>,
    task: JoinHandle<()>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hub {
    pub fn start(port: u16, acks: Acks) -> Self {
        let (sender, received) = watch::channel(Received::default());
        Self { received, task: tokio::spawn(serve_hub(port, acks, sender)) }
    }

    pub async fn until(&mut self, what: &str, condition: impl FnMut(&Received) -> bool) -> Received {
        let found = tokio::time::timeout(PATIENCE, self.received.wait_for(condition)).await;
        if let Ok(received) = found {
            return received.unwrap().clone();
        }
        drop(found);
        let Received { batches, duplicates, upto_seq, connects, .. } = &*self.received.borrow();
        panic!(
            "the hub never had {what}: {batches} batches, {duplicates} duplicates, up to {upto_seq}, {connects} connects"
        )
    }
}

async fn serve_hub(port: u16, acks: Acks, sender: watch::Sender<Received>) {
    loop {
        let (client, mut event_loop) = client(&format!("hub-{port}"), port);
        while let Ok(event) = event_loop.poll().await {
            match event {
                Event::Incoming(Packet::ConnAck(_)) => {
                    client.try_subscribe(format!("{}/#", topics().prefix()), QoS::AtLeastOnce).unwrap();
                }
                Event::Incoming(Packet::SubAck(_)) => sender.send_modify(|received| received.connects += 1),
                Event::Incoming(Packet::Publish(publish)) if publish.topic == topics().ack() => {}
                Event::Incoming(Packet::Publish(publish)) if publish.topic == topics().state() => {
                    let text = String::from_utf8(publish.payload.to_vec()).unwrap();
                    sender.send_modify(|received| received.states.push(text));
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    let batch = Batch::decode(&publish.payload).unwrap();
                    assert_eq!(batch.epoch, EPOCH);
                    sender.send_modify(|received| received.take(&publish.payload, &batch));
                    let upto_seq = sender.borrow().upto_seq;
                    if matches!(acks, Acks::Signed) {
                        publish_ack(&client, &hub_key(), upto_seq);
                    }
                }
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Received {
    fn take(&mut self, payload: &[u8], batch: &Batch) {
        self.batches += 1;
        self.bytes.extend_from_slice(payload);
        self.upto_seq = self.upto_seq.max(batch.oldest_seq.saturating_sub(1));
        for sequenced in &batch.records {
            if self.bodies.insert(sequenced.seq, sequenced.record.body.clone()).is_some() {
                self.duplicates += 1;
                continue;
            }
            if let Body::Interval(interval) = &sequenced.record.body {
                self.requests += interval.counters.requests;
            }
            self.seqs.insert(sequenced.seq);
        }
        while self.seqs.contains(&(self.upto_seq + 1)) {
            self.upto_seq += 1;
        }
    }
}

pub fn client(id: &str, port: u16) -> (AsyncClient, rumqttc::EventLoop) {
    let mut options = MqttOptions::new(id, Broker::tcp("127.0.0.1", port));
    options.set_clean_start(true).set_max_packet_size(Some(1 << 20)).set_keep_alive(5);
    AsyncClient::builder(options).capacity(1024).build()
}

pub fn signed_ack(key: &SigningKey, epoch: u64, upto_seq: u64) -> Vec<u8> {
    let body = serde_json::to_string(&serde_json::json!({
        "v": FormatVersion::NUMBER, "epoch": format!("{epoch:016x}"), "upto_seq": upto_seq, "gaps": [],
    }))
    .unwrap();
    Ack::decode(&body).unwrap();
    let sig = Signature(key.sign(&signed_bytes(&topics().ack(), &body)).to_bytes());
    serde_json::to_vec(&Signed { key_id: Ident::new("hub-1").unwrap(), sig, body }).unwrap()
}

fn publish_ack(client: &AsyncClient, key: &SigningKey, upto_seq: u64) {
    let options = PublishOptions::new(QoS::AtLeastOnce);
    // A full channel is a lost acknowledgement, which a hub may well have.
    let _lost = client.try_publish(topics().ack(), signed_ack(key, EPOCH, upto_seq), options).is_err();
}

/// Publishes once, and returns when the broker has it.
pub async fn publish(port: u16, topic: String, payload: Vec<u8>, retain: bool) {
    let (client, mut event_loop) = client("publisher", port);
    client.try_publish(topic, payload, PublishOptions::new(QoS::AtLeastOnce).retain(retain)).unwrap();
    loop {
        if let Event::Incoming(Packet::PubAck(_)) = event_loop.poll().await.unwrap() {
            client.try_disconnect().unwrap();
            while event_loop
                .poll()
                .await
                .is_ok_and(|e| !matches!(e, Event::Outgoing(rumqttc::Outgoing::Disconnect)))
            {}
            return;
        }
    }
}
