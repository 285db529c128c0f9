use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::clients::{Clients, time};
use super::load::{Loaded, read_at};
use super::*;
use pki::{Authority, Pair, put, replace};

#[path = "../../tests/socket/pki.rs"]
mod pki;

const YEAR_S: u64 = 365 * 86_400 + 6 * 3600;
/// Some day in 2027.
const NOW_UNIX_S: u64 = 1_798_761_600 + 100 * 86_400;

fn config(pair: &Pair, authority: Option<&Authority>) -> TlsConfig {
    TlsConfig {
        cert: pair.cert.clone(),
        key: pair.key.clone(),
        client_ca: authority.map(Authority::ca),
        client_certificates: ClientCertificates::Required,
        min_version: TlsVersion::V1_2,
        handshake_timeout_ms: 1000,
    }
}

#[test]
fn what_cannot_be_used_is_named_and_no_line_of_it_is_repeated() {
    let authority = Authority::new();
    let good = authority.sign("good", (2020, 2040));
    let other = authority.sign("other", (2020, 2040));
    let secret = std::fs::read_to_string(&good.key).unwrap();
    let check = |change: &dyn Fn(&mut TlsConfig), word: &str| {
        let mut config = config(&good, Some(&authority));
        change(&mut config);
        let error = read_at(&config, None, NOW_UNIX_S).unwrap_err();
        let said = wire::chain(&error);
        assert!(said.contains(word), "{said} has no '{word}'");
        for line in secret.lines().filter(|line| !line.contains("---")) {
            assert!(!format!("{said} {error:?}").contains(line), "{said}");
        }
        assert!(error.is_configuration());
    };
    assert!(read_at(&config(&good, Some(&authority)), None, NOW_UNIX_S).is_ok());
    check(&|config| config.cert = "/nowhere/box.pem".into(), "cannot read /nowhere/box.pem");
    check(&|config| config.key = other.key.clone(), "cannot be used with the key");
    check(&|config| config.cert = good.key.clone(), "holds no certificate");
    let copy = authority.path("copy.pem");
    put(&copy, &std::fs::read_to_string(&good.cert).unwrap(), 0o600);
    check(&|config| config.key = copy.clone(), "no private key");
    check(&|config| config.client_ca = Some(good.key.clone()), "holds no certificate");
    let broken = authority.path("broken.pem");
    put(&broken, &secret.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\n%"), 0o600);
    check(&|config| config.key = broken.clone(), "no private key that can be read");
    put(&broken, &std::fs::read_to_string(&good.cert).unwrap().replace("MII", "MI!"), 0o644);
    check(&|config| config.cert = broken.clone(), "no PEM that can be read");
    for mode in [0o604, 0o602, 0o644] {
        put(&broken, &secret, mode);
        check(&|config| config.key = broken.clone(), "chmod o=");
    }
}

#[test]
fn a_certificate_that_has_ended_is_better_than_none_but_not_than_a_good_one() {
    let authority = Authority::new();
    let check = |years: (i32, i32), current: Option<(i32, i32)>, now_unix_s: u64, taken: bool| {
        let loaded = |stem, years| read_at(&config(&authority.sign(stem, years), None), None, now_unix_s);
        let current: Option<Loaded> = current.map(|years| loaded("current", years).unwrap());
        let got = read_at(&config(&authority.sign("next", years), None), current.as_ref(), now_unix_s);
        assert_eq!(got.is_ok(), taken, "{years:?} at {now_unix_s}: {got:?}");
    };
    check((2020, 2026), None, NOW_UNIX_S, true);
    check((2020, 2026), Some((2020, 2030)), NOW_UNIX_S, false);
    check((2020, 2026), Some((2020, 2025)), NOW_UNIX_S, true);
    check((2020, 2031), Some((2020, 2030)), NOW_UNIX_S, true);
    // A clock at 1970 does not make a new certificate look old, and an old one does not look new.
    check((2027, 2031), Some((2020, 2030)), 0, true);
    check((2020, 2026), Some((2020, 2030)), 0, false);
}

#[test]
fn client_certificates_at_a_box_that_does_not_know_the_time() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let clients = Clients { chains, earliest: time(NOW_UNIX_S) };
    let check = |signer: &Authority, years: (i32, i32), now_unix_s: u64, good: bool| {
        let der = signer.sign("client", years).der;
        let got = clients.verify_client_cert(&der, &[], time(now_unix_s));
        assert_eq!(got.is_ok(), good, "{years:?} at {now_unix_s}: {got:?}");
    };
    let later = NOW_UNIX_S + 3 * YEAR_S;
    check(&authority, (2020, 2040), NOW_UNIX_S, true);
    check(&authority, (2020, 2040), later, true);
    check(&authority, (2020, 2028), later, false);
    check(&authority, (2029, 2040), NOW_UNIX_S, false);
    // 1970: what begins later than the box can know is taken, what has surely ended is not.
    check(&authority, (2020, 2040), 0, true);
    check(&authority, (2029, 2040), 0, true);
    check(&authority, (2020, 2027), 0, false);
    check(&stranger, (2020, 2040), 0, false);
    check(&stranger, (2029, 2040), 0, false);
    check(&stranger, (2020, 2040), NOW_UNIX_S, false);
}

/// Over a pipe: what was agreed on, and what the listener knows of the client.
async fn shake(tls: &Arc<Tls>, alpn: Alpn, client: ClientConfig) -> Option<(Option<Vec<u8>>, Peer)> {
    let (near, far) = tokio::io::duplex(4096);
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let connecting = tokio::spawn(async move { connector.connect(name, far).await });
    let (stream, peer) = tls.handshake(alpn).shake(near).await?;
    let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    connecting.await.unwrap().unwrap();
    Some((agreed, peer))
}

#[tokio::test]
async fn each_listener_speaks_its_protocol_and_knows_its_client() {
    let authority = Authority::new();
    let own = authority.sign("camera", (2020, 2090));
    let tls = TlsConfig {
        client_certificates: ClientCertificates::Optional,
        handshake_timeout_ms: 20_000,
        ..config(&authority.sign("box", (2020, 2090)), Some(&authority))
    };
    let tls = Arc::new(Tls::load(&tls).unwrap());
    let client = |offered: &[&str], own: Option<&Pair>| {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
                builder.with_client_auth_cert(vec![pair.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    };
    for (alpn, spoken, other) in [(Alpn::Http1, "http/1.1", "h2"), (Alpn::H2, "h2", "http/1.1")] {
        for offered in [&[spoken][..], &[other, spoken], &[spoken, other]] {
            let (agreed, peer) = shake(&tls, alpn, client(offered, None)).await.unwrap();
            assert_eq!(agreed.as_deref(), Some(spoken.as_bytes()), "{offered:?}");
            assert_eq!(peer.certificate, None);
        }
        let (agreed, peer) = shake(&tls, alpn, client(&[], Some(&own))).await.unwrap();
        assert_eq!((agreed, peer.certificate), (None, Some(crate::keys::digest(&own.der))));
        let before = tls.failed_handshakes();
        assert!(shake(&tls, alpn, client(&[other], None)).await.is_none());
        assert_eq!(tls.failed_handshakes(), before + 1);
    }
}

#[test]
fn a_failure_is_counted_once_and_over_when_the_files_are_good() {
    let authority = Authority::new();
    let (first, second) = (authority.sign("box", (2020, 2040)), authority.sign("new", (2020, 2041)));
    let tls = Tls::load(&config(&first, None)).unwrap();
    let before = tls.not_after_unix_s();
    let look = |good: bool, failures: u64| {
        assert_eq!(tls.look(false).is_ok(), good);
        assert_eq!((tls.failures(), tls.failure().is_none()), (failures, good));
    };
    look(true, 0);
    // The renewal writes one file after the other.
    replace(&first.cert, &second.cert);
    look(false, 1);
    look(false, 1);
    assert_eq!(tls.not_after_unix_s(), before);
    replace(&first.key, &second.key);
    look(true, 1);
    assert!(tls.not_after_unix_s() > before);
    std::fs::remove_file(&first.key).unwrap();
    look(false, 2);
}
