use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use tokio_rustls::rustls;

/// Why the front cannot start, or does not take changed certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{listener} = \"{address}\" can be reached from the network and has no TLS: anybody there reads what is \
         sent; use a loopback address, add [listen.tls], or set insecure_listen = true"
    )]
    Exposed { listener: &'static str, address: SocketAddr },
    #[error("{key} must be at least {least}")]
    TooSmall { key: &'static str, least: u64 },
    #[error("cannot listen on {address} ({listener}): the address is in use by another process")]
    InUse { listener: &'static str, address: SocketAddr },
    #[error("cannot listen on {address} ({listener})")]
    Bind {
        listener: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is open to every user of this box: chmod o= {}", path.display(), path.display())]
    OpenToAll { path: PathBuf },
    /// A certificate file. `detail` holds no line of the file.
    #[error("{} {detail}", path.display())]
    Certificate { path: PathBuf, detail: String },
    #[error("the certificates in {} cannot be used with the key in {}", cert.display(), key.display())]
    Tls {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    /// The file of API keys. `detail` holds no value of the file but ids.
    #[error("{}: {detail}", path.display())]
    Keys { path: PathBuf, detail: String },
}

impl Error {
    /// Whether the cure is in the configuration or the files that it names, not in who else listens.
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Self::InUse { .. } | Self::Bind { .. })
    }
}
