//! Certificates made here, as files.

#![allow(dead_code, reason = "included by the unit tests of TLS too, which need less of it")]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::rustls::pki_types::CertificateDer;

/// An authority, and a folder for what it signs.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        // Each has a name of its own: an issuer is looked up by it.
        params.distinguished_name.push(DnType::CommonName, dir.path().display().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        put(&dir.path().join("ca.pem"), &certificate.pem(), 0o644);
        Self { dir, issuer: Issuer::new(params, key), der: certificate.der().clone() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// For `localhost`, valid from the first day of `years.0` to that of `years.1`.
    pub(crate) fn sign(&self, stem: &str, years: (i32, i32)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, stem);
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            cert: self.path(&format!("{stem}.pem")),
            key: self.path(&format!("{stem}.key")),
            der: certificate.der().clone(),
        };
        put(&pair.cert, &certificate.pem(), 0o644);
        put(&pair.key, &key.serialize_pem(), 0o600);
        pair
    }
}

/// As whoever renews a certificate should: a new file in the place of the old one.
pub(crate) fn put(path: &Path, text: &str, mode: u32) {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(&beside, path).unwrap();
}

/// `new` in the place of `old`.
pub(crate) fn replace(old: &Path, new: &Path) {
    let mode = std::fs::metadata(new).unwrap().permissions().mode() & 0o777;
    put(old, &std::fs::read_to_string(new).unwrap(), mode);
}
