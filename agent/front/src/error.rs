use std::io;
use std::net::SocketAddr;

/// Why the front cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{listener} = \"{address}\" can be reached from the network and has no TLS: anybody there reads what is \
         sent; use a loopback address, or set insecure_listen = true"
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
}
