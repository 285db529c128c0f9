//! The files that `[hub]` names. Read anew for each connection, so that a renewed certificate needs no restart.

use std::path::PathBuf;

use rumqttc::TlsConfiguration;

use crate::{Broker, Config, Error};

/// What is shown to the broker, and what the broker must show.
pub(super) struct Credentials {
    /// User name and password.
    pub(super) password: Option<(String, Vec<u8>)>,
    /// For mqtts.
    pub(super) tls: Option<TlsConfiguration>,
}

impl Credentials {
    /// Reads them.
    pub(super) fn read(config: &Config, broker: &Broker) -> Result<Self, Error> {
        let password = match (&config.username, &config.password_file) {
            (Some(username), Some(path)) => {
                let mut password = read("password_file", path)?;
                if password.last() == Some(&b'\n') {
                    password.pop();
                }
                Some((username.clone(), password))
            }
            _ => None,
        };
        let tls = if broker.tls { Some(tls(config)?) } else { None };
        Ok(Self { password, tls })
    }
}

fn tls(config: &Config) -> Result<TlsConfiguration, Error> {
    let Some(ca_file) = &config.ca_file else {
        return TlsConfiguration::try_default_rustls().map_err(|_| Error::Config {
            key: "ca_file",
            problem: "absent, and the system's authorities cannot be read",
        });
    };
    let client_auth = match (&config.client_cert_file, &config.client_key_file) {
        (Some(cert), Some(key)) => Some((read("client_cert_file", cert)?, read("client_key_file", key)?)),
        _ => None,
    };
    Ok(TlsConfiguration::Simple { ca: read("ca_file", ca_file)?, alpn: None, client_auth })
}

fn read(key: &'static str, path: &PathBuf) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Credential { key, path: path.clone(), source })
}
