use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Outcome, Subject};
use crate::exit::chain;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The hub's broker accepts a connection. Nothing is sent over it.
pub(super) async fn check(subject: &Subject) -> Outcome {
    let config = match subject.config() {
        Ok(config) => config,
        Err(outcome) => return outcome,
    };
    match &config.hub {
        None => Outcome::skipped("no hub is configured: nothing leaves this box"),
        Some(hub) => connect(&hub.broker).await,
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
