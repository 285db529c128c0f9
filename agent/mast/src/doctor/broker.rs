use std::time::Duration;

use link::BrokerReason;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Outcome, Subject};
use crate::exit::chain;
use crate::status::UplinkStatus;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The hub's broker accepts a connection, over which nothing is sent; and what a running agent says of its own.
pub(super) async fn check(subject: &Subject) -> Outcome {
    let config = match subject.config() {
        Ok(config) => config,
        Err(outcome) => return outcome,
    };
    match &config.hub {
        None => Outcome::skipped("no hub is configured: nothing leaves this box"),
        Some(hub) => {
            let reached = connect(&hub.broker).await;
            match subject.agent.as_ref().ok().and_then(|agent| agent.uplink.as_ref()) {
                Some(uplink) if !reached.is_failed() => Outcome::worst(vec![reached, judge(uplink)]),
                _ => reached,
            }
        }
    }
}

/// What the agent's own connection is like: only there are names, passwords and certificates tried.
fn judge(uplink: &UplinkStatus) -> Outcome {
    match (&uplink.last_error, uplink.connected) {
        (None, true) => Outcome::ok("the agent is connected"),
        (None, false) => Outcome::warning("the agent is not connected yet", "ask again in ten seconds"),
        (Some(error), true) => {
            Outcome::warning(format!("the agent is connected, but: {error}"), cure(uplink.reason))
        }
        (Some(error), false) => Outcome::failed(
            format!("the agent is not connected ({}): {error}", uplink.reason),
            cure(uplink.reason),
        ),
    }
}

fn cure(reason: BrokerReason) -> &'static str {
    match reason {
        BrokerReason::Connected => "see to the hub: is it running, and is its key in hub.keys?",
        BrokerReason::Tls => {
            "check the dates and names of hub.ca_file, of the broker's certificate and of this box's, and the clock"
        }
        BrokerReason::Credentials | BrokerReason::NotAuthorised => {
            "check hub.username and hub.password_file, and what the broker lets this box publish and subscribe"
        }
        BrokerReason::CredentialFile => "make the file readable for the user of the service, and nobody else",
        BrokerReason::PacketTooLarge => "let the broker take packets of 17 KiB",
        BrokerReason::Protocol => "check that hub.broker names a broker, and that it speaks MQTT 5",
        BrokerReason::Starting
        | BrokerReason::Unreachable
        | BrokerReason::Timeout
        | BrokerReason::Busy
        | BrokerReason::Closed
        | BrokerReason::Stopped => "look at the broker and its log; records wait in the outbox meanwhile",
    }
}

async fn connect(url: &str) -> Outcome {
    let broker = match link::Broker::parse(url) {
        Ok(broker) => broker,
        Err(error) => return Outcome::failed(chain(&error), "correct hub.broker"),
    };
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((broker.host.as_str(), broker.port))).await;
    match connected.unwrap_or_else(|elapsed| Err(elapsed.into())) {
        Ok(_) => Outcome::ok(format!("{url} accepts connections")),
        Err(error) => Outcome::failed(
            format!("{url}: {error}"),
            "check name, port and firewall; inference goes on meanwhile, and records wait in the outbox",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_met_is_told_with_a_cure() {
        let check = |connected: bool, reason: &str, error: Option<&str>, word: &str, part: &str| {
            let uplink = serde_json::json!({
                "broker": "mqtts://hub", "connected": connected, "reason": reason, "pid": 8, "reconnects": 0, "published": 0,
                "resent": 0, "acks": 0, "bad_acks": 0, "restarts": 0, "last_error": error,
            });
            let outcome = judge(&serde_json::from_value(uplink).unwrap());
            assert_eq!(outcome.word(), word, "{outcome:?}");
            let told = format!("{} {}", outcome.text(), outcome.cure().unwrap_or_default());
            assert!(told.contains(part), "{told} has no '{part}'");
        };
        check(true, "connected", None, "ok", "connected");
        check(false, "starting", None, "warning", "not connected yet");
        check(false, "tls", Some("invalid peer certificate: Expired"), "failed", "hub.ca_file");
        check(false, "not_authorised", Some("refused"), "failed", "hub.password_file");
        check(false, "credential_file", Some("cannot read /x"), "failed", "/x");
        check(true, "connected", Some("no hub is subscribed"), "warning", "see to the hub");
    }

    #[test]
    fn a_broker_is_only_connected_to() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let check = |url: &str, word: &str| {
            let outcome = runtime.block_on(connect(url));
            assert_eq!(outcome.word(), word, "{outcome:?}");
        };
        check(&format!("mqtt://{address}"), "ok");
        let (mut stream, _) = listener.accept().unwrap();
        let mut sent = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut sent).unwrap();
        assert_eq!(sent, b"", "a byte was sent");
        drop((stream, listener));
        check(&format!("mqtt://{address}"), "failed");
        check("tcp://x", "failed");
    }
}
