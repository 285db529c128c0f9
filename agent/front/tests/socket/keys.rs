use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use front::{ClientCertificates, KeysConfig, TlsConfig, new_key};
use serde_json::json;

use crate::agent::{Agent, Answer, ECHO_JSON, Setup, add_model, post};
use crate::pki::{Authority, put};
use crate::tls::{Client, tls};

/// A file of keys, and the agent that asks for them.
pub(crate) struct Keyed {
    pub(crate) agent: Agent,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Keyed {
    pub(crate) fn start(entries: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.toml");
        put(&file, entries, 0o640);
        let keys = Some(KeysConfig { file: file.clone() });
        Self { agent: Agent::start(Setup { keys, ..Setup::default() }), file, _dir: dir }
    }

    pub(crate) fn denied(&self, reason: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.agent.metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let text = Answer::read(&mut stream).text();
        let name = format!("mast_denied_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().to_owned()
    }
}

/// A `[[key]]` and its key.
pub(crate) fn entry(id: &str, more: &str) -> (String, String) {
    let made = new_key().unwrap();
    (format!("[[key]]\nid = \"{id}\"\nsha256 = \"{}\"\n{more}\n", made.sha256), made.key)
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").into_bytes()
}

#[test]
fn who_is_let_in() {
    let (any, key) = entry("any", "");
    let (old, ended) = entry("old", "expires = 2026-01-01");
    let (young, lasting) = entry("young", "expires = 2090-01-01T00:00:00Z");
    let keyed = Keyed::start(&(any + &old + &young));
    let agent = &keyed.agent;
    let check = |headers: &str, status: u16| {
        for request in [
            post("/v2/models/echo/infer", headers, ECHO_JSON),
            post("/v2/repository/index", headers, b"{}"),
            get("/v2/models/echo", headers),
            get("/v2/models/echo/ready", headers),
            get("/v2/models/echo/config", headers),
            get("/v2/models/echo/stats", headers),
            get("/v2/models/stats", headers),
            get("/v2", headers),
        ] {
            let answer = agent.send(&request);
            assert_eq!(answer.status, status, "{headers} {answer:?}");
            if status == 401 {
                assert_eq!(answer.header("www-authenticate"), Some("bearer realm=\"mast\""));
                assert!(!answer.error().is_empty());
            }
        }
        // Without a key nothing is said of what is there.
        let elsewhere = if status == 401 { 401 } else { 404 };
        assert_eq!(agent.send(&get("/v2/nowhere", headers)).status, elsewhere);
        for open in ["/v2/health/live", "/v2/health/ready"] {
            assert_eq!(agent.send(&get(open, headers)).status, 200);
        }
    };
    check(&format!("Authorization: Bearer {key}\r\n"), 200);
    check(&format!("authorization: bearer {key}\r\n"), 200);
    check(&format!("Mast-Key: {key}\r\n"), 200);
    check(&format!("Mast-Key: {lasting}\r\n"), 200);
    check(&format!("Mast-Key: {key}\r\nAuthorization: Basic eA==\r\n"), 200);
    check("", 401);
    check("Authorization: Bearer \r\n", 401);
    check("Authorization: Bearer\r\n", 401);
    check("Mast-Key: \r\n", 401);
    check(&format!("Authorization: Basic {key}\r\n"), 401);
    check(&format!("Authorization: {key}\r\n"), 401);
    check(&format!("Authorization: Bearer {key}x\r\n"), 401);
    check(&format!("Authorization: Bearer {}\r\n", &key[..key.len() - 1]), 401);
    check(&format!("Authorization: Bearer {}\r\n", key.to_uppercase()), 401);
    check(&format!("Authorization: Bearer {ended}\r\n"), 401);
    check(&format!("Mast-Key: {key}\r\nMast-Key: {key}\r\n"), 401);
    check(&format!("Mast-Key: wrong\r\nAuthorization: Bearer {key}\r\n"), 401);
    check(&format!("Mast-Key: {}\r\n", "k".repeat(5000)), 401);
    assert_eq!(keyed.denied("refused"), "0");
    assert_ne!(keyed.denied("unauthenticated"), "0");
    // The control socket asks for none: its file's mode has decided.
    assert_eq!(agent.over_control(&post("/v2/models/echo/infer", "", ECHO_JSON)).status, 200);
}

#[test]
fn what_has_no_key_is_not_read() {
    let keyed = Keyed::start(&entry("any", "").0);
    let agent = &keyed.agent;
    let mut stream = agent.connect();
    let head = "POST /v2/models/echo/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let answer = Answer::read(&mut stream);
    assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
    assert_eq!(agent.serve.pressure().buffered_bytes, 0);
    // A client that asks first is not told to go on.
    let answer = agent.post("/v2/models/echo/infer", "expect: 100-continue\r\n", b"");
    assert_eq!(answer.status, 401);
    // A small body is taken, and the connection goes on.
    let mut stream = agent.connect();
    for _ in 0..3 {
        stream.write_all(&post("/v2/models/echo/infer", "", ECHO_JSON)).unwrap();
        assert_eq!(Answer::read(&mut stream).status, 401);
    }
}

#[test]
fn a_key_is_for_its_models() {
    let (some, key) = entry("some", "models = [\"ec*\", \"second\"]");
    let (none, nothing) = entry("none", "models = []");
    let (all, everything) = entry("all", "");
    let keyed = Keyed::start(&(some + &none + &all));
    let agent = &keyed.agent;
    add_model(&agent.repository, "other", "");
    assert_eq!(agent.administer("other", "load", b"").status, 200);
    let check = |key: &str, model: &str, status: u16, word: &str| {
        let header = format!("Mast-Key: {key}\r\n");
        for request in [
            get(&format!("/v2/models/{model}"), &header),
            get(&format!("/v2/models/{model}/versions/1/config"), &header),
            get(&format!("/v2/models/{model}/stats"), &header),
            post(&format!("/v2/models/{model}/infer"), &header, ECHO_JSON),
        ] {
            let answer = agent.send(&request);
            assert_eq!(answer.status, status, "{model} {answer:?}");
            assert!(answer.text().contains(word), "{answer:?} has no {word}");
            if status == 403 {
                assert_eq!(answer.json()["rule"], "key-models");
            }
        }
    };
    check(&key, "echo", 200, "");
    check(&key, "%65cho", 200, "");
    check(&key, "other", 403, "models ec*, second");
    // As if it were there: whether it is, is nobody's business.
    check(&key, "nowhere", 403, "models ec*, second");
    check(&key, "%6fther", 403, "models ec*, second");
    check(&key, "second", 400, "");
    check(&nothing, "echo", 403, "no model");
    check(&everything, "other", 200, "");
    let listed = |key: &str| {
        let header = format!("Mast-Key: {key}\r\n");
        let index = agent.post("/v2/repository/index", &header, b"").json();
        let names = index.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned());
        let stats = agent.send(&get("/v2/models/stats", &header)).json();
        let counted = stats["model_stats"].as_array().unwrap().len();
        (names.collect::<Vec<_>>(), counted)
    };
    assert_eq!(listed(&key), (vec!["echo".to_owned()], 1));
    assert_eq!(listed(&nothing), (vec![], 0));
    assert_eq!(listed(&everything).0.len(), 2);
    assert_ne!(keyed.denied("refused"), "0");
}

#[test]
fn a_key_is_of_its_tenant() {
    let (ours, key) = entry("ours", "tenant = \"local\"");
    let (theirs, foreign) = entry("theirs", "tenant = \"acme\"");
    let (gateway, free) = entry("gateway", "");
    let keyed = Keyed::start(&(ours + &theirs + &gateway));
    let check = |key: &str, labels: &str, status: u16, rule: &str| {
        let answer = keyed.agent.infer(&format!("Mast-Key: {key}\r\n{labels}"), ECHO_JSON);
        assert_eq!(answer.status, status, "{labels} {answer:?}");
        if status != 200 {
            assert_eq!(answer.json()["rule"], rule, "{labels} {answer:?}");
        }
        assert!(!answer.text().contains("acme") || labels.contains("acme") || key == foreign, "{answer:?}");
    };
    check(&key, "", 200, "");
    check(&key, "Mast-Tenant: local\r\n", 200, "");
    check(&key, "Mast-Tenant: acme\r\n", 403, "key-tenant");
    check(&key, "Mast-Tenant: LOCAL\r\n", 403, "key-tenant");
    check(&key, "Mast-Tenant: \r\n", 403, "key-tenant");
    check(&key, "Mast-Tenant: local\r\nMast-Tenant: acme\r\n", 403, "key-tenant");
    check(&key, "Mast-Tenant: local\r\nMast-Tenant: local\r\n", 403, "unknown-label");
    // The policy knows one tenant: the label of a key goes the same way as one of a header.
    check(&foreign, "", 403, "unknown-label");
    check(&free, "", 200, "");
    check(&free, "Mast-Tenant: acme\r\n", 403, "unknown-label");
}

#[test]
fn over_the_rate_is_told_when_to_come_back() {
    let (slow, key) = entry("slow", "requests_per_second = 0.01\nburst = 3");
    let (free, other) = entry("free", "");
    let keyed = Keyed::start(&(slow + &free));
    let infer = |key: &str| keyed.agent.infer(&format!("Authorization: Bearer {key}\r\n"), ECHO_JSON);
    for _ in 0..3 {
        assert_eq!(infer(&key).status, 200);
    }
    let answer = infer(&key);
    assert_eq!(answer.status, 429, "{answer:?}");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait}");
    assert!(answer.error().contains("rate"), "{answer:?}");
    // Reading the file again forgives nothing, and other keys do not wait.
    keyed.agent.credentials.reload().unwrap();
    assert_eq!(infer(&key).status, 429);
    assert_eq!(infer(&other).status, 200);
    assert_eq!(keyed.denied("rate"), "2");
}

#[test]
fn administration_is_for_the_control_socket_and_admin_keys() {
    let (admin, boss) = entry("boss", "admin = true");
    let (narrow, half) = entry("half", "admin = true\nmodels = [\"second\"]");
    let (user, key) = entry("user", "");
    let keyed = Keyed::start(&(admin + &narrow + &user));
    let open = Agent::start(Setup::default());
    let check = |agent: &Agent, key: &str, status: u16| {
        let header = if key.is_empty() { String::new() } else { format!("Mast-Key: {key}\r\n") };
        for what in ["unload", "load"] {
            let answer = agent.post(&format!("/v2/repository/models/echo/{what}"), &header, b"");
            assert_eq!(answer.status, status, "{answer:?}");
            if status == 403 {
                let text = answer.error();
                assert!(text.contains("control socket") || text.contains("models second"), "{text}");
            }
        }
        let server = agent.send(&get("/v2", &header));
        if server.status == 200 && key != half {
            let extensions = server.json()["extensions"].clone();
            let listed = extensions.as_array().unwrap().contains(&json!("model_repository"));
            assert_eq!(listed, status == 200, "{extensions}");
        }
    };
    check(&keyed.agent, &boss, 200);
    check(&keyed.agent, &half, 403);
    check(&keyed.agent, &key, 403);
    check(&keyed.agent, "", 401);
    // Without keys nobody administers over TCP, not on loopback either.
    check(&open, "", 403);
    for agent in [&keyed.agent, &open] {
        assert_eq!(agent.administer("echo", "unload", b"").status, 200);
        assert_eq!(agent.administer("echo", "load", b"").status, 200);
    }
}

#[test]
fn a_changed_file_counts_and_a_bad_one_does_not() {
    let ((first, old), (second, new)) = (entry("a", ""), entry("b", ""));
    let keyed = Keyed::start(&first);
    let agent = &keyed.agent;
    let infer = |key: &str| agent.infer(&format!("Mast-Key: {key}\r\n"), ECHO_JSON).status;
    put(&keyed.file, &second, 0o640);
    agent.credentials.reload().unwrap();
    assert_eq!((infer(&old), infer(&new)), (401, 200));
    let check = |text: &str, mode: u32, word: &str| {
        put(&keyed.file, text, mode);
        let error = wire::chain(&agent.credentials.reload().unwrap_err());
        assert!(error.contains(word), "{error} has no {word}");
        assert_eq!(agent.credentials.view().keys_failure, Some(error));
        assert_eq!((infer(&old), infer(&new)), (401, 200));
    };
    check("", 0o640, "no [[key]]");
    check("[[key", 0o640, "malformed");
    check(&format!("{first}{first}"), 0o640, "stands twice");
    check(&first, 0o644, "chmod o=");
    put(&keyed.file, &first, 0o600);
    agent.credentials.reload().unwrap();
    assert_eq!((infer(&old), infer(&new)), (200, 401));
    assert_eq!(agent.credentials.view().keys, Some(1));
}

#[test]
fn a_client_certificate_is_a_key_too() {
    let authority = Authority::new();
    let (camera, other) = (authority.sign("camera", (2020, 2090)), authority.sign("other", (2020, 2090)));
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&camera.der);
    let (any, key) = entry("any", "models = []");
    let file = authority.path("keys.toml");
    let entries =
        format!("{any}[[key]]\nid = \"camera\"\ncertificate_sha256 = \"{}\"\n", hex::encode(digest));
    put(&file, &entries, 0o600);
    let config = TlsConfig {
        client_ca: Some(authority.ca()),
        client_certificates: ClientCertificates::Optional,
        ..tls(&authority.sign("box", (2020, 2090)))
    };
    let keys = Some(KeysConfig { file });
    let agent = Agent::start(Setup { tls: Some(config), keys, ..Setup::default() });
    let check = |own, headers: &str, status: u16| {
        let request = post("/v2/models/echo/infer", headers, ECHO_JSON);
        let (answer, _) = Client::new(&authority, own).send(agent.http, &request);
        assert_eq!(answer.status, status, "{headers} {answer:?}");
    };
    check(Some(&camera), "", 200);
    check(Some(&other), "", 401);
    check(None, "", 401);
    // A key that is sent decides, good or bad.
    check(Some(&camera), &format!("Mast-Key: {key}\r\n"), 403);
    check(Some(&camera), "Mast-Key: wrong\r\n", 401);
    check(Some(&other), &format!("Mast-Key: {key}\r\n"), 403);
}

#[test]
fn each_protocol_is_refused_in_its_own_words() {
    let (slow, key) = entry("slow", "requests_per_second = 0.01\nburst = 1\ntenant = \"local\"");
    let keyed = Keyed::start(&slow);
    let send = |path: &str, headers: &str| keyed.agent.post(path, headers, b"{}");
    let grpc = |headers: &str| {
        let answer = send(
            "/inference.GRPCInferenceService/ModelInfer",
            &format!("content-type: application/grpc\r\n{headers}"),
        );
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert!(answer.header("grpc-message").is_some_and(|text| !text.is_empty()), "{answer:?}");
        answer.header("grpc-status").unwrap().to_owned()
    };
    let with = format!("Mast-Key: {key}\r\n");
    assert_eq!(grpc(""), "16");
    assert_eq!(grpc(&format!("{with}Mast-Tenant: acme\r\n")), "7");
    assert_eq!(send("/v1/embeddings", &with).status, 400, "the one request of the burst");
    assert_eq!(grpc(&with), "8");
    for (headers, status, code) in [("", 401, "invalid_api_key"), (&with, 429, "rate_limit_exceeded")] {
        let answer = send("/v1/embeddings", headers);
        assert_eq!(answer.status, status);
        assert_eq!(answer.json()["error"]["code"], code);
        assert!(answer.json()["error"]["message"].is_string());
    }
}

/// Everything the tests of this process log, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn keys_tenants_and_digests_are_in_no_log_no_metric_and_no_answer() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let (text, key) = entry("secretive", "tenant = \"tenant-nobody-knows\"");
    let wrong = new_key().unwrap().key;
    let keyed = Keyed::start(&text);
    let agent = &keyed.agent;
    let mut said = String::new();
    for key in [&key, &wrong] {
        for labels in ["", "Mast-Tenant: local\r\n"] {
            let answer = agent.infer(&format!("Authorization: Bearer {key}\r\n{labels}"), ECHO_JSON);
            said.push_str(&format!("{answer:?}{}", answer.text()));
        }
    }
    put(&keyed.file, &format!("{text}key = \"{wrong}\"\n"), 0o640);
    said.push_str(&wire::chain(&agent.credentials.reload().unwrap_err()));
    put(&keyed.file, &format!("{text}{wrong} = 1"), 0o640);
    said.push_str(&wire::chain(&agent.credentials.reload().unwrap_err()));
    said.push_str(&format!("{:?} {:?} {:?}", agent.credentials, agent.credentials.view(), agent.running));
    let mut stream = std::net::TcpStream::connect(agent.metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    said.push_str(&Answer::read(&mut stream).text());
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("cannot be used; the one before stays in use"), "{log}");
    let digest = text.split('"').nth(3).unwrap();
    assert_eq!(digest.len(), 64);
    for secret in [&*key, &*wrong, digest, "tenant-nobody-knows"] {
        assert!(!said.contains(secret), "{secret} in {said}");
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
