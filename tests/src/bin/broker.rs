//! `mast-test-broker --port PORT`: an MQTT 5 broker (rumqttd) on loopback, for a machine without mosquitto.
//!
//! Keeps everything in memory and has no end but being killed, which is what the tests do with it. Prints one line once it
//! listens. Not a hub's broker: it drops the oldest messages of a slow subscriber.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

const START_LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let port: u16 = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--port", port] => port.parse().context("--port wants a number from 1 to 65535")?,
        _ => bail!("usage: mast-test-broker --port PORT"),
    };
    ensure!(port != 0, "--port 0: rumqttd does not say which port it got, so name one");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    // start() never returns, and a port in use is only an error in its log: take the port first to fail clearly.
    drop(std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?);
    let mut broker = Broker::new(config(address));
    let serving = std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
        // Its error is large, and is boxed on the way out.
        broker.start().map_err(Box::new)
    })?;
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        ensure!(
            !serving.is_finished() && start.elapsed() < START_LIMIT,
            "rumqttd does not listen on {address}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    announce(address)?;
    match serving.join() {
        Ok(ended) => Ok(ended?),
        Err(_) => bail!("rumqttd panicked"),
    }
}

fn announce(address: SocketAddr) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready: mqtt://{address}")?;
    Ok(out.flush()?)
}

fn config(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: 256 * 1024,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server =
        ServerSettings { name: "v5".to_owned(), listen, tls: None, next_connection_delay_ms: 1, connections };
    Config {
        router: RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            max_segment_size: 8 * 1024 * 1024,
            max_segment_count: 8,
            ..RouterConfig::default()
        },
        v5: Some([("1".to_owned(), server)].into()),
        ..Config::default()
    }
}
