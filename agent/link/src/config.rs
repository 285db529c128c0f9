//! `[hub]` of the configuration, and what of it goes to the child.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use egress::{Capability, Ident, PublicKey, Site};
use serde::{Deserialize, Serialize};

use crate::Error;

/// `[hub]`: the broker, and how the outbox is drained to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `mqtt://host:port` or `mqtts://host:port`; ports 1883 and 8883 if absent.
    pub broker: String,
    /// PEM: the authorities that may have signed the broker's certificate. Without it, the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM: the box's certificate. Together with `client_key_file`.
    pub client_cert_file: Option<PathBuf>,
    /// PEM: the box's private key.
    pub client_key_file: Option<PathBuf>,
    /// MQTT user name. Together with `password_file`.
    pub username: Option<String>,
    /// A file with the MQTT password; one newline at its end is not part of it.
    pub password_file: Option<PathBuf>,
    /// MQTT client identifier; `mast-` and the names of the site if absent.
    pub client_id: Option<Ident>,
    /// The hub's public keys by their `key_id`. With none, acknowledgements are believed unsigned: for tests only.
    pub keys: BTreeMap<Ident, PublicKey>,
    /// Length of a metric interval, in seconds.
    pub interval_s: u64,
    /// Shortest upper bound of the random wait before a reconnection, in ms.
    pub backoff_min_ms: u64,
    /// Longest upper bound of the random wait before a reconnection, in ms.
    pub backoff_max_ms: u64,
    /// Without progress for this long, what is not acknowledged is sent again, in ms. Doubles while it does not help.
    pub resend_after_ms: u64,
    /// Batches sent and not yet acknowledged by the hub, at most.
    pub window_batches: usize,
    /// MQTT keep alive, in seconds.
    pub keep_alive_s: u16,
    /// How long the broker waits before it publishes the will, in seconds: a blip is not a death.
    pub will_delay_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            broker: "mqtt://127.0.0.1:1883".to_owned(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            username: None,
            password_file: None,
            client_id: None,
            keys: BTreeMap::new(),
            interval_s: 10,
            backoff_min_ms: 1_000,
            backoff_max_ms: 300_000,
            resend_after_ms: 2_000,
            window_batches: 8,
            keep_alive_s: 30,
            will_delay_s: 30,
        }
    }
}

impl Config {
    /// Checks what can be checked without touching a file or the network.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what is wrong with it.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, key: &'static str, problem: &'static str| {
            if ok { Ok(()) } else { Err(Error::Config { key, problem }) }
        };
        let broker = Broker::parse(&self.broker)?;
        check(
            broker.tls || (self.ca_file.is_none() && self.client_cert_file.is_none()),
            "broker",
            "certificates are configured, but mqtt:// uses none: use mqtts://",
        )?;
        check(
            self.client_cert_file.is_none() || self.ca_file.is_some(),
            "ca_file",
            "needed with client_cert_file: a box that shows a certificate knows who it shows it to",
        )?;
        crate::uplink::verifying_keys(&self.keys)?;
        check(
            self.client_cert_file.is_some() == self.client_key_file.is_some(),
            "client_cert_file",
            "client_cert_file and client_key_file go together",
        )?;
        check(
            self.username.is_some() == self.password_file.is_some(),
            "username",
            "username and password_file go together",
        )?;
        check((1..=86_400).contains(&self.interval_s), "interval_s", "wanted 1 to 86400")?;
        check(self.backoff_min_ms >= 1, "backoff_min_ms", "wanted at least 1")?;
        check(
            (self.backoff_min_ms..=86_400_000).contains(&self.backoff_max_ms),
            "backoff_max_ms",
            "wanted backoff_min_ms to 86400000",
        )?;
        check((50..=3_600_000).contains(&self.resend_after_ms), "resend_after_ms", "wanted 50 to 3600000")?;
        check((1..=256).contains(&self.window_batches), "window_batches", "wanted 1 to 256")?;
        check((5..=3_600).contains(&self.keep_alive_s), "keep_alive_s", "wanted 5 to 3600")?;
        check(self.will_delay_s <= 86_400, "will_delay_s", "wanted at most 86400")
    }

    /// Length of a metric interval.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.interval_s)
    }
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Whether the connection is TLS.
    pub tls: bool,
    /// A name or an address, IPv6 without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Broker {
    /// Reads `mqtt://host[:port]` or `mqtts://host[:port]`.
    ///
    /// # Errors
    /// [`Error::Config`] for the key `broker`.
    pub fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |problem| Error::Config { key: "broker", problem };
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err(wrong("wanted mqtt://host:port or mqtts://host:port")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(wrong("no credentials in the URL: use username and password_file"));
        }
        if rest.contains(['/', '?', '#']) {
            return Err(wrong("nothing may follow host and port"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(wrong("only an IPv6 address stands in brackets"));
                }
                match (port.strip_prefix(':'), port.is_empty()) {
                    (Some(port), _) => (host, Some(port)),
                    (None, true) => (host, None),
                    (None, false) => return Err(wrong("only :port may follow the bracket")),
                }
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong("no host"));
        }
        let port = match port {
            None if tls => 8883,
            None => 1883,
            Some(text) => match text.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(wrong("the port is not 1 to 65535")),
            },
        };
        Ok(Self { tls, host: host.to_owned(), port })
    }

    /// Whether the broker is named as this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// All that `mast uplink` is told, in its first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// `[hub]`.
    pub hub: Config,
    /// Whose records these are.
    pub site: Site,
    /// The outbox stream.
    pub epoch: u64,
    /// Random, made when the agent started.
    pub boot: u64,
    /// The agent's version.
    pub agent: Ident,
    /// What the box can do.
    pub caps: Vec<Capability>,
}

impl UplinkConfig {
    /// The MQTT client identifier: one per box, so that a broker never has two sessions of it.
    #[must_use]
    pub fn client_id(&self) -> String {
        match &self.hub.client_id {
            Some(ident) => ident.to_string(),
            None => format!("mast-{}", self.site.to_string().replace('/', "-")),
        }
    }
}

#[cfg(test)]
mod tests;
