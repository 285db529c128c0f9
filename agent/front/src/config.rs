use std::net::{Ipv4Addr, SocketAddr};

use serde::Deserialize;
use wire::Jurisdiction;

use crate::{Error, KeysConfig, TlsConfig};

/// Who may connect, how long a client may take and how much it may send.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// KServe v2 REST.
    pub http: SocketAddr,
    /// `inference.GRPCInferenceService` and `grpc.health.v1.Health`.
    pub grpc: SocketAddr,
    /// `GET /metrics`.
    pub metrics: SocketAddr,
    /// Needed for an address other than loopback where there is no TLS.
    pub insecure_listen: bool,
    /// The longest body of a request, and the most that a compressed one may unpack to.
    pub body_limit_bytes: u64,
    /// From the first moment a connection is idle to the end of the next request's header: what bounds both a
    /// client that sends its header slowly and a kept connection that is not used.
    pub header_timeout_ms: u64,
    /// For the whole body, from the end of the header.
    pub body_timeout_ms: u64,
    /// How long a reply may make no progress because the client does not read.
    pub write_timeout_ms: u64,
    /// Open connections per listener; one more is answered 503 at once.
    pub connection_limit: usize,
    /// For requests that do not carry the label headers.
    pub labels: DefaultLabels,
    /// Not stated: no TLS. Stated: on every TCP listener.
    pub tls: Option<TlsConfig>,
    /// Not stated: nobody needs a key, and nobody may administer on the TCP listeners.
    pub keys: Option<KeysConfig>,
}

/// The labels of a request that states none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DefaultLabels {
    pub tenant: String,
    /// Not stated: the site's own.
    pub jurisdiction: Option<Jurisdiction>,
    pub data_class: String,
    pub purpose: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: (Ipv4Addr::LOCALHOST, 8000).into(),
            grpc: (Ipv4Addr::LOCALHOST, 8001).into(),
            metrics: (Ipv4Addr::LOCALHOST, 8002).into(),
            insecure_listen: false,
            body_limit_bytes: 64 << 20,
            header_timeout_ms: 60_000,
            body_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            connection_limit: 1024,
            labels: DefaultLabels::default(),
            tls: None,
            keys: None,
        }
    }
}

impl Default for DefaultLabels {
    fn default() -> Self {
        Self {
            tenant: "local".to_owned(),
            jurisdiction: None,
            data_class: "operational".to_owned(),
            purpose: "inference".to_owned(),
        }
    }
}

impl Config {
    /// # Errors
    /// [`Error::Exposed`] and [`Error::TooSmall`], with the key to change.
    pub fn validate(&self) -> Result<(), Error> {
        for (listener, address) in [("http", self.http), ("grpc", self.grpc), ("metrics", self.metrics)] {
            if !self.insecure_listen && self.tls.is_none() && !address.ip().is_loopback() {
                return Err(Error::Exposed { listener, address });
            }
        }
        let connections = u64::try_from(self.connection_limit).unwrap_or(u64::MAX);
        for (key, value) in [
            ("body_limit_bytes", self.body_limit_bytes),
            ("header_timeout_ms", self.header_timeout_ms),
            ("body_timeout_ms", self.body_timeout_ms),
            ("write_timeout_ms", self.write_timeout_ms),
            ("connection_limit", connections),
        ] {
            if value == 0 {
                return Err(Error::TooSmall { key, least: 1 });
            }
        }
        if self.tls.as_ref().is_some_and(|tls| tls.handshake_timeout_ms == 0) {
            return Err(Error::TooSmall { key: "tls.handshake_timeout_ms", least: 1 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exposed_must_be_meant() {
        let check = |text: &str, complaint: Option<&str>| {
            let config: Config = toml::from_str(text).unwrap();
            let said = config.validate().err().map(|error| error.to_string());
            match complaint {
                None => assert_eq!(said, None, "{text}"),
                Some(part) => {
                    assert!(said.as_ref().is_some_and(|said| said.contains(part)), "{text}: {said:?}")
                }
            }
        };
        check("", None);
        check("http = \"[::1]:0\"", None);
        check("http = \"0.0.0.0:8000\"", Some("insecure_listen = true"));
        check("metrics = \"192.0.2.1:8002\"", Some("metrics"));
        check("grpc = \"0.0.0.0:8001\"", Some("grpc"));
        check("http = \"0.0.0.0:8000\"", Some("[listen.tls]"));
        check("http = \"0.0.0.0:8000\"\ninsecure_listen = true", None);
        check("body_limit_bytes = 0", Some("body_limit_bytes"));
        check("connection_limit = 0", Some("connection_limit"));
    }

    #[test]
    fn sections_of_who_may_call() {
        let check = |text: &str, good: bool| {
            let config = toml::from_str::<Config>(text).map_err(|error| error.to_string());
            let valid = config.and_then(|config| config.validate().map_err(|error| error.to_string()));
            assert_eq!(valid.is_ok(), good, "{text}: {valid:?}");
        };
        let tls = "http = \"0.0.0.0:1\"\n[tls]\ncert = \"c\"\nkey = \"k\"\n";
        check(tls, true);
        check(&format!("{tls}min_version = \"1.3\"\nclient_certificates = \"optional\""), true);
        check(&format!("{tls}min_version = \"1.1\""), false);
        check(&format!("{tls}handshake_timeout_ms = 0"), false);
        check("[tls]\ncert = \"c\"", false);
        check("[keys]\nfile = \"k\"", true);
        check("[keys]", false);
        // Keys without TLS are read on the way.
        check("http = \"0.0.0.0:1\"\n[keys]\nfile = \"k\"", false);
        check("allow_repository_control = true", false);
    }
}
