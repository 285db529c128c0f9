use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use front::{ClientCertificates, TlsConfig, TlsVersion};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

use crate::agent::{Agent, Answer, ECHO_JSON, SOON, Setup, post, until};
use crate::pki::{Authority, Pair, put, replace};

pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

const YEARS: (i32, i32) = (2020, 2090);

/// A client that knows the authority, and offers what it is told to.
pub(crate) struct Client {
    pub(crate) config: ClientConfig,
}

impl Client {
    pub(crate) fn new(authority: &Authority, own: Option<&Pair>) -> Self {
        Self::speaking(authority, own, &[&version::TLS13, &version::TLS12])
    }

    fn speaking(
        authority: &Authority,
        own: Option<&Pair>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
                builder.with_client_auth_cert(vec![pair.der.clone()], key).unwrap()
            }
        };
        Self { config }
    }

    pub(crate) fn connect(&self, address: SocketAddr) -> Stream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(self.config.clone()), name).unwrap(), stream)
    }

    /// One request on a connection of its own, and the certificate that was shown.
    pub(crate) fn send(&self, address: SocketAddr, request: &[u8]) -> (Answer, CertificateDer<'static>) {
        let mut stream = self.connect(address);
        stream.write_all(request).unwrap();
        let answer = Answer::read(&mut stream);
        (answer, stream.conn.peer_certificates().unwrap()[0].clone().into_owned())
    }

    /// Why there is no answer.
    fn refused(&self, address: SocketAddr) -> String {
        let mut stream = self.connect(address);
        let sent = stream.write_all(&post("/v2/models/echo/infer", "", ECHO_JSON));
        let read = sent.and_then(|()| stream.flush()).and_then(|()| stream.read(&mut [0; 1]));
        match read {
            Ok(0) => "closed".to_owned(),
            Ok(_) => panic!("answered"),
            Err(error) => error.to_string(),
        }
    }
}

pub(crate) fn tls(pair: &Pair) -> TlsConfig {
    TlsConfig {
        cert: pair.cert.clone(),
        key: pair.key.clone(),
        client_ca: None,
        client_certificates: ClientCertificates::Required,
        min_version: TlsVersion::V1_2,
        handshake_timeout_ms: 20_000,
    }
}

pub(crate) fn start(tls: TlsConfig) -> Agent {
    Agent::start(Setup { tls: Some(tls), ..Setup::default() })
}

fn infer() -> Vec<u8> {
    post("/v2/models/echo/infer", "", ECHO_JSON)
}

fn metrics(client: &Client, agent: &Agent) -> String {
    client.send(agent.metrics, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").0.text()
}

fn has_line(text: &str, line: &str) -> bool {
    text.lines().any(|row| row == line)
}

#[test]
fn every_tcp_port_speaks_tls_and_the_control_socket_does_not() {
    let authority = Authority::new();
    let agent = start(tls(&authority.sign("box", YEARS)));
    let client = Client::new(&authority, None);
    let mut stream = client.connect(agent.http);
    for _ in 0..3 {
        stream.write_all(&infer()).unwrap();
        assert_eq!(Answer::read(&mut stream).status, 200);
    }
    // 2090-01-01.
    let text = metrics(&client, &agent);
    assert!(has_line(&text, "mast_tls_certificate_expiry_seconds 3786912000"), "{text}");
    assert!(has_line(&text, "mast_tls_reload_failures_total 0"), "{text}");
    assert_eq!(agent.credentials.view().certificate_not_after_unix_s, Some(3_786_912_000));
    assert_eq!(agent.over_control(&infer()).status, 200);
}

#[test]
fn versions_protocols_and_strangers() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let pair = authority.sign("box", YEARS);
    let agent = start(TlsConfig { min_version: TlsVersion::V1_3, ..tls(&pair) });
    let check = |client: Client, alpn: &[&str], complaint: Option<&str>| {
        let mut client = client;
        client.config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        match complaint {
            None => assert_eq!(client.send(agent.http, &infer()).0.status, 200),
            Some(word) => {
                let said = client.refused(agent.http);
                assert!(said.contains(word), "{said} has no {word}");
            }
        }
    };
    check(Client::new(&authority, None), &[], None);
    check(Client::new(&authority, None), &["h2", "http/1.1"], None);
    check(Client::new(&authority, None), &["h2"], Some("NoApplicationProtocol"));
    check(Client::speaking(&authority, None, &[&version::TLS12]), &[], Some("ProtocolVersion"));
    check(Client::new(&stranger, None), &[], Some("UnknownIssuer"));
    let older = start(tls(&pair));
    let client = Client::speaking(&authority, None, &[&version::TLS12]);
    assert_eq!(client.send(older.http, &infer()).0.status, 200);
}

#[test]
fn plain_http_is_told_to_use_tls() {
    let authority = Authority::new();
    let agent = start(tls(&authority.sign("box", YEARS)));
    let answer = agent.send(&infer());
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("use https"), "{answer:?}");
    // Whatever else comes is closed.
    for junk in
        [&b"\x16\x03\x01\xff\xff"[..], b"\x16not tls at all, but long enough", b"\x00", b"PRI * HTTP/2.0"]
    {
        let mut stream = agent.connect();
        stream.write_all(junk).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        assert!(!said.starts_with(b"HTTP/1.1 200"), "{said:?}");
    }
    assert_eq!(Client::new(&authority, None).send(agent.http, &infer()).0.status, 200);
}

#[test]
fn a_slow_handshake_holds_its_place_for_a_bounded_time_and_nobody_else() {
    let authority = Authority::new();
    let pair = authority.sign("box", YEARS);
    let client = Client::new(&authority, None);

    let patient = start(TlsConfig { handshake_timeout_ms: 600_000, ..tls(&pair) });
    let slow: Vec<TcpStream> = (0..20).map(|_| patient.connect()).collect();
    let started = Instant::now();
    assert_eq!(client.send(patient.http, &infer()).0.status, 200);
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(slow);

    let tls = TlsConfig { handshake_timeout_ms: 300, ..tls(&pair) };
    let agent = Agent::start(Setup { front: "connection_limit = 1", tls: Some(tls), ..Setup::default() });
    let mut silent = agent.connect();
    // Half a record is no handshake either.
    silent.write_all(&[0x16, 3, 1, 0, 200, 1]).unwrap();
    let started = Instant::now();
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0, "closed by the deadline");
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    until("the place to be free", || {
        let mut stream = client.connect(agent.http);
        stream.write_all(&infer()).is_ok() && stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
    });
    let text = metrics(&client, &agent);
    assert!(!has_line(&text, "mast_tls_handshake_failures_total 0"), "{text}");
}

#[test]
fn handshakes_count_as_connections() {
    let authority = Authority::new();
    let tls = TlsConfig { handshake_timeout_ms: 600_000, ..tls(&authority.sign("box", YEARS)) };
    let agent = Agent::start(Setup { front: "connection_limit = 2", tls: Some(tls), ..Setup::default() });
    let waiting: Vec<TcpStream> = (0..2).map(|_| agent.connect()).collect();
    let mut turned_away = agent.connect();
    assert_eq!(turned_away.read(&mut [0; 1]).unwrap_or(0), 0, "closed without an answer");
    drop(waiting);
    let client = Client::new(&authority, None);
    until("a place to be free", || {
        let mut stream = client.connect(agent.http);
        stream.write_all(&infer()).is_ok() && stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
    });
}

#[test]
fn client_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let pair = authority.sign("box", YEARS);
    let (good, ended) = (authority.sign("camera", YEARS), authority.sign("old", (2020, 2021)));
    let foreign = stranger.sign("foreign", YEARS);
    let required = TlsConfig { client_ca: Some(authority.ca()), ..tls(&pair) };
    let optional = TlsConfig { client_certificates: ClientCertificates::Optional, ..required.clone() };
    for (config, without) in [(required, Some("CertificateRequired")), (optional, None)] {
        let agent = start(config);
        let check = |own: Option<&Pair>, complaint: Option<&str>| {
            let client = Client::new(&authority, own);
            match complaint {
                None => assert_eq!(client.send(agent.http, &infer()).0.status, 200),
                Some(word) => {
                    let said = client.refused(agent.http);
                    assert!(said.contains(word), "{said} has no {word}");
                }
            }
        };
        check(None, without);
        check(Some(&good), None);
        check(Some(&ended), Some("CertificateExpired"));
        check(Some(&foreign), Some("UnknownCA"));
    }
}

#[test]
fn certificates_change_under_load_without_a_failed_request() {
    let authority = Authority::new();
    let pair = authority.sign("box", YEARS);
    let next: Vec<Pair> = (0..8).map(|index| authority.sign(&format!("next{index}"), YEARS)).collect();
    let agent = start(tls(&pair));
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for kept in [true, false, false] {
            let (client, agent, stop, served) = (Client::new(&authority, None), &agent, &stop, &served);
            scope.spawn(move || {
                let mut open = kept.then(|| client.connect(agent.http));
                while !stop.load(Ordering::Relaxed) {
                    let answer = match &mut open {
                        None => client.send(agent.http, &infer()).0,
                        Some(stream) => {
                            stream.write_all(&infer()).unwrap();
                            Answer::read(stream)
                        }
                    };
                    assert_eq!(answer.status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let client = Client::new(&authority, None);
        for next in &next {
            let before = served.load(Ordering::Relaxed);
            replace(&pair.cert, &next.cert);
            // Between the two files the old certificate goes on.
            assert!(agent.running.as_ref().unwrap().reload().is_err());
            replace(&pair.key, &next.key);
            agent.running.as_ref().unwrap().reload().unwrap();
            let (answer, shown) = client.send(agent.http, &infer());
            assert_eq!((answer.status, shown), (200, next.der.clone()));
            until("requests meanwhile", || served.load(Ordering::Relaxed) > before + 5);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(has_line(&metrics(&Client::new(&authority, None), &agent), "mast_tls_reload_failures_total 8"));
}

#[test]
fn a_bad_certificate_is_told_and_kept_out() {
    let authority = Authority::new();
    let pair = authority.sign("box", YEARS);
    let (other, ended) = (authority.sign("other", YEARS), authority.sign("ended", (2020, 2021)));
    let key = std::fs::read_to_string(&pair.key).unwrap();
    let cert = std::fs::read_to_string(&pair.cert).unwrap();
    let agent = start(tls(&pair));
    let client = Client::new(&authority, None);
    let check = |change: &dyn Fn(), word: &str| {
        change();
        let error = wire::chain(&agent.credentials.reload().unwrap_err());
        assert!(error.contains(word), "{error} has no {word}");
        assert_eq!(agent.credentials.view().certificate_failure, Some(error));
        let (answer, shown) = client.send(agent.http, &infer());
        assert_eq!((answer.status, shown), (200, pair.der.clone()));
        put(&pair.cert, &cert, 0o644);
        put(&pair.key, &key, 0o600);
    };
    check(&|| replace(&pair.cert, &other.cert), "cannot be used with the key");
    check(&|| replace(&pair.key, &other.key), "cannot be used with the key");
    check(&|| put(&pair.cert, "", 0o644), "holds no certificate");
    check(&|| put(&pair.key, &key, 0o644), "chmod o=");
    check(&|| std::fs::remove_file(&pair.key).unwrap(), "cannot read");
    let expired = || {
        replace(&pair.cert, &ended.cert);
        replace(&pair.key, &ended.key);
    };
    check(&expired, "has ended");
    agent.credentials.reload().unwrap();
    assert_eq!(agent.credentials.view().certificate_failure, None);
}

#[test]
fn a_changed_certificate_is_seen() {
    let authority = Authority::new();
    let (pair, next) = (authority.sign("box", YEARS), authority.sign("next", YEARS));
    let agent = start(tls(&pair));
    replace(&pair.key, &next.key);
    replace(&pair.cert, &next.cert);
    let client = Client::new(&authority, None);
    until("the new certificate", || client.send(agent.http, &infer()).1 == next.der);
}

#[test]
fn shutdown_finishes_what_is_in_flight_over_tls() {
    let authority = Authority::new();
    let script = engine::fake::FakeScript { compute: Duration::from_millis(200), ..Default::default() };
    let tls = Some(tls(&authority.sign("box", YEARS)));
    let mut agent = Agent::start(Setup { script, tls, ..Setup::default() });
    let mut busy = Client::new(&authority, None).connect(agent.http);
    let silent = agent.connect();
    busy.write_all(&infer()).unwrap();
    busy.flush().unwrap();
    until("the request to be taken", || agent.serve.pressure().pending_requests == 1);
    agent.shutdown.send(true).unwrap();
    let client = std::thread::spawn(move || Answer::read(&mut busy).status);
    let left = agent.runtime.block_on(agent.running.take().unwrap().finished(SOON));
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(client.join().unwrap(), 200);
    drop(silent);
}
