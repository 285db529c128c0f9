use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::{Extension, Router};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_rustls::StartHandshake;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::server::TlsStream;

use super::Tls;
use crate::keys::{Digest, digest};

/// What a listener speaks behind TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alpn {
    Http1,
    /// For gRPC.
    H2,
}

/// The first byte of whoever speaks TLS: a handshake record (RFC 8446 §5.1).
const RECORD_HANDSHAKE: u8 = 0x16;

const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
    Content-Length: 53\r\nConnection: close\r\n\r\n{\"error\":\"this port speaks TLS: use https, not http\"}";

/// Makes TLS connections of the connections of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    tls: Arc<Tls>,
    alpn: Alpn,
}

impl Handshake {
    pub(super) fn new(tls: Arc<Tls>, alpn: Alpn) -> Self {
        Self { tls, alpn }
    }

    /// Within the deadline. What fails is counted, and closed.
    pub(crate) async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: S,
    ) -> Option<(TlsStream<S>, Peer)> {
        let done = timeout(self.tls.handshake_time, self.accept(socket)).await;
        let error = match done {
            Ok(Ok(stream)) => {
                let chain = stream.get_ref().1.peer_certificates();
                let certificate = chain.and_then(|chain| chain.first()).map(|leaf| digest(leaf));
                return Some((stream, Peer { certificate }));
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"),
        };
        self.tls.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        // The client's doing, or a certificate that it does not like.
        tracing::debug!(%error, "a TLS handshake failed");
        None
    }

    async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, mut socket: S) -> io::Result<TlsStream<S>> {
        let mut acceptor = Acceptor::default();
        let mut piece = [0_u8; 4096];
        let mut first = true;
        loop {
            let read = socket.read(&mut piece).await?;
            let mut arrived = piece.get(..read).unwrap_or_default();
            if arrived.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if first && arrived.first() != Some(&RECORD_HANDSHAKE) {
                socket.write_all(PLAIN).await?;
                socket.shutdown().await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
            }
            first = false;
            while !arrived.is_empty() {
                acceptor.read_tls(&mut arrived)?;
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let server = self.tls.live.current().server(self.alpn);
                    let rest = StartHandshake::from_parts(accepted, socket).into_stream(server);
                    match rest.into_fallible().await {
                        Ok(stream) => return Ok(stream),
                        Err((error, mut socket)) => {
                            // Lingers, so that the client can read the alert that says why.
                            socket.shutdown().await?;
                            return Err(error);
                        }
                    }
                }
                Err((error, mut alert)) => {
                    let mut said = Vec::new();
                    alert.write_all(&mut said)?;
                    socket.write_all(&said).await?;
                    socket.shutdown().await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }
}

/// Who is at the other end of a connection, as an extension of each of its requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Peer {
    /// SHA-256 of the client certificate, which is verified.
    pub(crate) certificate: Option<Digest>,
}

impl Peer {
    /// `router`, which is told who the peer is.
    pub(crate) fn before(self, router: Router) -> Router {
        match self.certificate {
            Some(_) => router.layer(Extension(self)),
            None => router,
        }
    }
}
