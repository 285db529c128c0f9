//! TLS to a real broker, with certificates made here: who is let in, who is not, and what is said of it.

#![allow(clippy::unwrap_used, reason = "a test helper that fails is a test that fails")]

mod support;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mast_link::{BrokerReason, UplinkConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use support::*;

/// An authority, and a folder for what it signs.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        // Each has a name of its own: OpenSSL looks the issuer up by it.
        params.distinguished_name.push(DnType::CommonName, dir.path().display().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        put(&dir.path().join("ca.pem"), &params.self_signed(&key).unwrap().pem());
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// For the holder of `name`, valid up to the first day of `until`.
    fn sign(&self, name: &str, until: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let stem = format!("{name}-{until}");
        let pair = Pair {
            cert: self.dir.path().join(format!("{stem}.pem")),
            key: self.dir.path().join(format!("{stem}.key")),
        };
        put(&pair.cert, &params.signed_by(&key, &self.issuer).unwrap().pem());
        put(&pair.key, &key.serialize_pem());
        pair
    }
}

fn put(path: &Path, text: &str) {
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// A second listener of the broker, for boxes. The first stays plain, for the hub.
fn listener(port: u16, authority: &Authority, server: &Pair, extra: &str) -> String {
    // Started as root it would become another user, who may not read the files.
    format!(
        "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\n{extra}",
        authority.ca().display(),
        server.cert.display(),
        server.key.display(),
    )
}

fn config_tls(port: u16, ca: PathBuf, client: Option<&Pair>) -> UplinkConfig {
    let mut config = config(port);
    config.hub.broker = format!("mqtts://127.0.0.1:{port}");
    config.hub.ca_file = Some(ca);
    config.hub.client_cert_file = client.map(|pair| pair.cert.clone());
    config.hub.client_key_file = client.map(|pair| pair.key.clone());
    config.hub.validate().unwrap();
    config
}

/// The box is let in: its record reaches the hub and is freed by it.
async fn let_in(name: &str, broker: &Mosquitto, config: UplinkConfig) {
    let mut hub = Hub::start(broker.port, Acks::Signed);
    hub.until("a subscription", |hub| hub.connects == 1).await;
    let outbox = MemoryOutbox::new();
    outbox.append(record(1));
    let mut uplink = Uplink::start(config, &outbox);
    let state = uplink.until(name, |state| state.acknowledged_seq == 1).await;
    assert_eq!((state.connected, state.detail), (true, None), "{name}");
    uplink.stop(Duration::from_secs(10)).await;
    assert_eq!(outbox.held(), 0, "{name}");
}

/// The box is not let in, and says why.
async fn kept_out(name: &str, config: UplinkConfig, reasons: &[BrokerReason], word: &str) {
    let outbox = MemoryOutbox::new();
    outbox.append(record(1));
    let mut uplink = Uplink::start(config, &outbox);
    let state = uplink.until(name, |state| state.counts.disconnects > 1).await;
    let detail = state.detail.unwrap_or_default().to_lowercase();
    assert!(reasons.contains(&state.reason), "{name}: {} {detail}", state.reason);
    assert!(detail.contains(word), "{name}: {detail}");
    assert_eq!((state.connected, state.counts.published), (false, 0), "{name}");
    uplink.stop(Duration::from_secs(10)).await;
    assert_eq!(outbox.held(), 1, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_asked_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = ours.sign("127.0.0.1", 2050);
    let port = free_port();
    let broker = Mosquitto::start_with(&listener(port, &ours, &server, "require_certificate true"));
    let tls = [BrokerReason::Tls];
    let good = ours.sign("box-1", 2050);
    let_in("ours", &broker, config_tls(port, ours.ca(), Some(&good))).await;
    kept_out("none", config_tls(port, ours.ca(), None), &tls, "certificaterequired").await;
    let expired = ours.sign("box-1", 2021);
    kept_out("expired", config_tls(port, ours.ca(), Some(&expired)), &tls, "expired").await;
    let stranger = theirs.sign("box-1", 2050);
    kept_out("of a stranger", config_tls(port, ours.ca(), Some(&stranger)), &tls, "unknownca").await;
    let mixed = Pair { cert: good.cert, key: stranger.key };
    kept_out("with another key", config_tls(port, ours.ca(), Some(&mixed)), &tls, "key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_must_show_its_own() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    for (name, server, ca, word) in [
        ("of an unknown authority", ours.sign("127.0.0.1", 2050), theirs.ca(), "unknownissuer"),
        ("expired", ours.sign("127.0.0.1", 2021), ours.ca(), "expired"),
        ("for another host", ours.sign("elsewhere.example", 2050), ours.ca(), "not valid for name"),
    ] {
        let port = free_port();
        let _broker = Mosquitto::start_with(&listener(port, &ours, &server, ""));
        kept_out(name, config_tls(port, ca, None), &[BrokerReason::Tls], word).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_over_tls() {
    let ours = Authority::new();
    let server = ours.sign("127.0.0.1", 2050);
    let users = ours.dir.path().join("users");
    let made =
        Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(&users).args(["box-1", "secret"]).status();
    assert!(made.unwrap().success());
    let port = free_port();
    let guarded = format!("allow_anonymous false\npassword_file {}", users.display());
    let broker = Mosquitto::start_with(&listener(port, &ours, &server, &guarded));
    let mut config = config_tls(port, ours.ca(), None);
    config.hub.username = Some("box-1".to_owned());
    let password = ours.dir.path().join("password");
    config.hub.password_file = Some(password.clone());
    put(&password, "secret\n");
    let_in("the right password", &broker, config.clone()).await;
    put(&password, "guess\n");
    let refused = [BrokerReason::NotAuthorised, BrokerReason::Credentials];
    kept_out("a wrong password", config, &refused, "").await;
}

/// What was renewed is used at the next attempt, without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_needs_no_restart() {
    let ours = Authority::new();
    let server = ours.sign("127.0.0.1", 2050);
    let port = free_port();
    let _broker = Mosquitto::start_with(&listener(port, &ours, &server, "require_certificate true"));
    let (used, renewed) = (ours.sign("box-1", 2021), ours.sign("box-1", 2050));
    let mut uplink = Uplink::start(config_tls(port, ours.ca(), Some(&used)), &MemoryOutbox::new());
    uplink.until("refused", |state| state.reason == BrokerReason::Tls).await;
    std::fs::copy(&renewed.key, &used.key).unwrap();
    std::fs::copy(&renewed.cert, &used.cert).unwrap();
    uplink.until("connected", |state| state.connected).await;
    uplink.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_certificate_is_told_by_what_it_should_be() {
    let ours = Authority::new();
    let server = ours.sign("127.0.0.1", 2050);
    let port = free_port();
    let _broker = Mosquitto::start_with(&listener(port, &ours, &server, "require_certificate true"));
    let text = ours.dir.path().join("note.txt");
    put(&text, "not a certificate");
    let good = ours.sign("box-1", 2050);
    let tls = [BrokerReason::Tls];
    kept_out("authorities", config_tls(port, text.clone(), None), &tls, "no valid ca certificate").await;
    let no_cert = Pair { cert: text.clone(), key: good.key };
    kept_out("certificate", config_tls(port, ours.ca(), Some(&no_cert)), &tls, "client authentication").await;
    let no_key = Pair { cert: good.cert, key: text };
    kept_out("key", config_tls(port, ours.ca(), Some(&no_key)), &tls, "key").await;
}
