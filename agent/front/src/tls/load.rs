//! From the files to what a handshake needs.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

use super::clients::{Clients, time};
use super::{Alpn, ClientCertificates, TlsConfig, TlsVersion};
use crate::clock::{EARLIEST_UNIX_S, has_ended, now_unix_s};
use crate::{Error, live};

/// One reading of the files.
#[derive(Debug)]
pub(crate) struct Loaded {
    http1: Arc<ServerConfig>,
    h2: Arc<ServerConfig>,
    /// Of the certificate of the chain that ends first.
    pub(crate) not_after_unix_s: u64,
}

impl Loaded {
    pub(super) fn server(&self, alpn: Alpn) -> Arc<ServerConfig> {
        Arc::clone(match alpn {
            Alpn::Http1 => &self.http1,
            Alpn::H2 => &self.h2,
        })
    }
}

pub(super) fn read(config: &TlsConfig, current: Option<&Loaded>) -> Result<Loaded, Error> {
    read_at(config, current, now_unix_s())
}

pub(super) fn read_at(
    config: &TlsConfig,
    current: Option<&Loaded>,
    now_unix_s: u64,
) -> Result<Loaded, Error> {
    let chain = certificates(&config.cert)?;
    let key = private_key(&config.key)?;
    let (not_before_unix_s, not_after_unix_s) = validity(&config.cert, &chain)?;
    if has_ended(not_after_unix_s, now_unix_s) {
        if current.is_some_and(|current| !has_ended(current.not_after_unix_s, now_unix_s)) {
            return Err(unusable(&config.cert, "has ended, and the certificate in use has not"));
        }
        tracing::warn!(cert = %config.cert.display(), "the certificate has ended; clients may refuse it");
    }

    let provider = Arc::new(ring::default_provider());
    let earliest_unix_s = EARLIEST_UNIX_S.max(not_before_unix_s);
    let clients = match &config.client_ca {
        Some(path) => clients(path, config.client_certificates, &provider, earliest_unix_s)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let versions: &[&SupportedProtocolVersion] = match config.min_version {
        TlsVersion::V1_2 => &[&version::TLS13, &version::TLS12],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let failed = |source| Error::Tls { cert: config.cert.clone(), key: config.key.clone(), source };
    let mut http1 = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .and_then(|builder| builder.with_client_cert_verifier(clients).with_single_cert(chain, key))
        .map_err(failed)?;
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut h2 = http1.clone();
    h2.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Loaded { http1: Arc::new(http1), h2: Arc::new(h2), not_after_unix_s })
}

fn unusable(path: &Path, detail: impl Into<String>) -> Error {
    Error::Certificate { path: path.to_owned(), detail: detail.into() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let content = live::read(path)?;
    // What the parser says may repeat a line of the file.
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|_| unusable(path, "is no PEM that can be read"))?;
    if chain.is_empty() {
        return Err(unusable(path, "holds no certificate"));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let content = live::read_secret(path)?;
    PrivateKeyDer::from_pem_slice(&content)
        .map_err(|_| unusable(path, "holds no private key that can be read (PEM, not encrypted)"))
}

/// The latest beginning and the earliest end.
fn validity(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(u64, u64), Error> {
    let (mut begins, mut ends) = (0, u64::MAX);
    for der in chain {
        let certificate = Certificate::from_der(der)
            .map_err(|_| unusable(path, "holds a certificate that cannot be read"))?;
        let validity = certificate.tbs_certificate().validity();
        begins = begins.max(validity.not_before.to_unix_duration().as_secs());
        ends = ends.min(validity.not_after.to_unix_duration().as_secs());
    }
    Ok((begins, ends))
}

fn clients(
    path: &Path,
    wanted: ClientCertificates,
    provider: &Arc<CryptoProvider>,
    earliest_unix_s: u64,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| unusable(path, format!("cannot be used: {error}")))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match wanted {
        ClientCertificates::Required => builder,
        ClientCertificates::Optional => builder.allow_unauthenticated(),
    };
    let chains = builder.build().map_err(|error| unusable(path, format!("cannot be used: {error}")))?;
    Ok(Arc::new(Clients { chains, earliest: time(earliest_unix_s) }))
}
