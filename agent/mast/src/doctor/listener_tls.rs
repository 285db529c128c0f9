use std::time::SystemTime;

use super::certificates::dates;
use super::{Outcome, Subject};
use crate::exit::chain;

/// The listeners' own certificate and keys can be used as the agent would use them, and last for a while.
pub(super) fn check(subject: &Subject) -> Outcome {
    let listen = match subject.config() {
        Ok(config) => &config.listen,
        Err(outcome) => return outcome,
    };
    judge(listen, SystemTime::now())
}

fn judge(listen: &front::Config, now: SystemTime) -> Outcome {
    if listen.tls.is_none() && listen.keys.is_none() {
        return Outcome::skipped("the listeners have neither TLS nor keys");
    }
    let credentials = match front::Credentials::load(listen) {
        Ok(credentials) => credentials,
        Err(error) => return Outcome::failed(chain(&error), cure(&error)),
    };
    let mut findings = Vec::new();
    if let Some(tls) = &listen.tls {
        findings.push(Outcome::ok(format!("{} is the key of {}", tls.key.display(), tls.cert.display())));
        findings.extend(
            [Some(&tls.cert), tls.client_ca.as_ref()].into_iter().flatten().map(|path| dates(path, now)),
        );
    }
    if let Some(keys) = credentials.view().keys {
        findings.push(Outcome::ok(format!("{keys} keys")));
    }
    Outcome::worst(findings)
}

fn cure(error: &front::Error) -> String {
    match error {
        front::Error::OpenToAll { path } => format!("chmod o= {}", path.display()),
        front::Error::Read { path, .. } => {
            format!("make {} readable for the user of the service", path.display())
        }
        front::Error::Tls { cert, key, .. } => {
            format!("put a certificate and its own key into {} and {}", cert.display(), key.display())
        }
        front::Error::Certificate { path, .. } => format!("put valid PEM into {}", path.display()),
        _ => "correct the file it names; mast keys new prints an entry".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::Duration;

    use super::super::tests::put;
    use super::*;

    /// Somebody else's.
    const OTHER: &str = include_str!("testdata/one-year.pem");

    #[test]
    fn what_the_agent_would_not_start_with_is_found() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let (cert, key) = (params.self_signed(&pair).unwrap().pem(), pair.serialize_pem());
        let check = |cert: &str, key_mode: u32, keys: &str, unix_s: u64, word: &str, part: &str| {
            let dir = tempfile::tempdir().unwrap();
            let place = |name: &str, text: &str, mode: u32| {
                let path = dir.path().join(name);
                put(&path, text.as_bytes());
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
                path
            };
            let listen = |cert: &Path, key: &Path, keys: &Path| {
                let text = format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n[keys]\nfile = {keys:?}");
                toml::from_str::<front::Config>(&text).unwrap()
            };
            let listen = listen(
                &place("box.pem", cert, 0o644),
                &place("box.key", &key, key_mode),
                &place("keys.toml", keys, 0o640),
            );
            let outcome = judge(&listen, SystemTime::UNIX_EPOCH + Duration::from_secs(unix_s));
            assert_eq!(outcome.word(), word, "{outcome:?}");
            assert!(outcome.text().contains(part), "{outcome:?} has no '{part}'");
            assert_eq!(outcome.cure().is_some(), word != "ok", "{outcome:?}");
        };
        let keys = format!("[[key]]\nid = \"a\"\nsha256 = \"{}\"\n", "ab".repeat(32));
        let (mid_2026, dec_2026, mid_2027) = (1_782_864_000, 1_796_083_200, 1_814_400_000);
        check(&cert, 0o640, &keys, mid_2026, "ok", "1 keys");
        check(&cert, 0o640, &keys, dec_2026, "warning", "ends soon");
        check(&cert, 0o640, &keys, mid_2027, "failed", "has ended");
        check(&cert, 0o644, &keys, mid_2026, "failed", "open to every user");
        check(OTHER, 0o640, &keys, mid_2026, "failed", "cannot be used with the key");
        check("", 0o640, &keys, mid_2026, "failed", "no certificate");
        check(&cert, 0o640, "", mid_2026, "failed", "no [[key]]");
    }

    #[test]
    fn nothing_to_check_is_skipped() {
        assert_eq!(judge(&front::Config::default(), SystemTime::now()).word(), "skipped");
    }
}
