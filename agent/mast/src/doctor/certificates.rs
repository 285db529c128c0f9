use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use x509_cert::Certificate;
use x509_cert::der::DecodePem as _;

use super::{Outcome, Subject};

/// How long before its end a certificate is worth a warning.
const AHEAD: Duration = Duration::from_secs(60 * 86_400);

/// The certificates of the hub's connection are readable, valid now and for a while, and keys are private.
pub(super) fn check(subject: &Subject) -> Outcome {
    let hub = match subject.config() {
        Ok(config) => config.hub.as_ref(),
        Err(outcome) => return outcome,
    };
    let Some(hub) = hub else { return Outcome::skipped("no hub is configured") };
    let now = SystemTime::now();
    let mut findings: Vec<Outcome> =
        hub.ca_file.iter().chain(&hub.client_cert_file).map(|path| dates(path, now)).collect();
    findings.extend(hub.client_key_file.iter().chain(&hub.password_file).map(|path| secret(path)));
    if findings.is_empty() {
        return Outcome::skipped("the hub's connection is configured without files of its own");
    }
    Outcome::worst(findings)
}

/// The certificate of a PEM file that ends first.
pub(super) fn dates(path: &Path, now: SystemTime) -> Outcome {
    let shown = path.display();
    let cure = format!("put a valid PEM certificate into {shown}");
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Outcome::failed(format!("cannot read {shown}: {error}"), cure),
    };
    let mut first: Option<Certificate> = None;
    for pem in pem_certificates(&text) {
        let Ok(certificate) = Certificate::from_pem(pem) else {
            return Outcome::failed(format!("{shown} holds a certificate that cannot be read"), cure);
        };
        let ends = |one: &Certificate| one.tbs_certificate().validity().not_after.to_system_time();
        if first.as_ref().is_none_or(|earlier| ends(&certificate) < ends(earlier)) {
            first = Some(certificate);
        }
    }
    let Some(first) = first else { return Outcome::failed(format!("{shown} holds no certificate"), cure) };
    let validity = first.tbs_certificate().validity();
    let (start, end) = (validity.not_before.to_system_time(), validity.not_after.to_system_time());
    let renew = format!("renew {shown}");
    if now < start {
        Outcome::failed(
            format!("{shown} is valid only from {}", validity.not_before),
            "check the clock, or wait",
        )
    } else if now > end {
        Outcome::failed(format!("{shown} has ended on {}", validity.not_after), renew)
    } else if now + AHEAD > end {
        Outcome::warning(format!("{shown} ends soon: {}", validity.not_after), renew)
    } else {
        Outcome::ok(format!("{shown} is valid until {}", validity.not_after))
    }
}

/// The certificate blocks of a file that may hold keys and comments too (RFC 7468).
fn pem_certificates(text: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    text.match_indices(BEGIN).filter_map(|(start, _)| {
        let block = text.get(start..)?;
        block.get(..block.find(END)? + END.len())
    })
}

/// A file that only its owner, and perhaps its group, may read.
fn secret(path: &Path) -> Outcome {
    let shown = path.display();
    match fs::File::open(path).and_then(|file| file.metadata()) {
        Err(error) => Outcome::failed(
            format!("cannot read {shown}: {error}"),
            format!("make {shown} readable for the user of the service, and nobody else"),
        ),
        Ok(file) if file.permissions().mode() & 0o007 != 0 => {
            Outcome::warning(format!("{shown} is open to every user"), format!("chmod o= {shown}"))
        }
        Ok(_) => Outcome::ok(format!("{shown} is private")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::put;
    use super::*;

    /// Ed25519, self-signed, 2026-01-01 to 2036-01-01 and 2026-01-01 to 2027-01-01.
    const TEN_YEARS: &str = include_str!("testdata/ten-years.pem");
    const ONE_YEAR: &str = include_str!("testdata/one-year.pem");

    #[test]
    fn the_certificate_that_ends_first_decides() {
        let check = |text: &str, unix_s: u64, word: &str, part: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ca.pem");
            put(&path, text.as_bytes());
            let outcome = dates(&path, SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s));
            assert_eq!(outcome.word(), word, "{outcome:?}");
            assert!(outcome.text().contains(part), "{outcome:?} has no '{part}'");
        };
        let (mid_2026, dec_2026, mid_2027) = (1_782_864_000, 1_796_083_200, 1_814_400_000);
        let both = format!("# a comment\n{TEN_YEARS}\n{ONE_YEAR}");
        check(ONE_YEAR, mid_2026, "ok", "2027-01-01");
        check(ONE_YEAR, dec_2026, "warning", "ends soon");
        check(ONE_YEAR, mid_2027, "failed", "has ended");
        check(ONE_YEAR, 0, "failed", "only from 2026-01-01");
        check(TEN_YEARS, mid_2027, "ok", "2036-01-01");
        check(&both, mid_2027, "failed", "2027-01-01");
        check("", mid_2026, "failed", "no certificate");
        check(&TEN_YEARS.replace("MIH", "XXX"), mid_2026, "failed", "cannot be read");
    }

    #[test]
    fn a_missing_file_and_an_open_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        assert_eq!(secret(&path).word(), "failed");
        assert_eq!(dates(&path, SystemTime::now()).word(), "failed");
        let check = |mode: u32, word: &str| {
            put(&path, b"secret");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(secret(&path).word(), word, "{mode:o}");
        };
        check(0o640, "ok");
        check(0o644, "warning");
    }
}
