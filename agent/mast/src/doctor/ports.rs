use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::{Outcome, Subject};

/// The listening addresses are free, or held by the running agent.
pub(super) fn check(subject: &Subject) -> Outcome {
    let config = match subject.config() {
        Ok(config) => &config.listen,
        Err(outcome) => return outcome,
    };
    let held = |address: SocketAddr| {
        let text = address.to_string();
        subject.agent.as_ref().is_ok_and(|agent| agent.http == text || agent.metrics == text)
    };
    let findings = [("http", config.http), ("metrics", config.metrics)];
    Outcome::worst(findings.into_iter().map(|(key, address)| probe(key, address, held(address))).collect())
}

/// Listens for a moment. The agent itself listens the same way.
fn probe(key: &str, address: SocketAddr, held_by_agent: bool) -> Outcome {
    let Err(error) = TcpListener::bind(address) else {
        return Outcome::ok(format!("{key} {address} is free"));
    };
    let cure = match error.kind() {
        ErrorKind::AddrInUse if held_by_agent => {
            return Outcome::ok(format!("{key} {address} is held by the running agent"));
        }
        ErrorKind::AddrInUse => {
            format!(
                "stop what listens there (ss -ltnp 'sport = :{}'), or change listen.{key}",
                address.port()
            )
        }
        ErrorKind::PermissionDenied => {
            format!("use a port from 1024 on for listen.{key}, or give the service CAP_NET_BIND_SERVICE")
        }
        ErrorKind::AddrNotAvailable => format!("set listen.{key} to an address of this box (ip address)"),
        _ => format!("change listen.{key}"),
    };
    Outcome::failed(format!("{key} {address}: {error}"), cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_or_it_is_said_who_may_hold_it() {
        let check = |address: SocketAddr, held_by_agent: bool, word: &str, part: &str| {
            let outcome = probe("http", address, held_by_agent);
            assert_eq!(outcome.word(), word, "{outcome:?}");
            assert!(outcome.text().contains(part), "{outcome:?} has no '{part}'");
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let taken = listener.local_addr().unwrap();
        check(taken, true, "ok", "running agent");
        check(taken, false, "failed", "in use");
        // TEST-NET-1 is no address of any machine (RFC 5737).
        check("192.0.2.1:8000".parse().unwrap(), false, "failed", "192.0.2.1:8000");
        check("127.0.0.1:0".parse().unwrap(), false, "ok", "free");
    }
}
