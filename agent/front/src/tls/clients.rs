//! Client certificates, and what they are worth at a box whose clock may be wrong.
//!
//! A box without a battery starts at 1970 and may stay there while it is offline. It knows more than its clock: the
//! time is not before this program was written, and not before its own certificate was made. A clock before that is
//! wrong for certain. Then:
//!
//! * what had ended by that earliest time is refused, for it has surely ended;
//! * what begins after it is taken, for whether it has begun cannot be known, and refusing would shut out every
//!   client that was given a new certificate while this box has no time. Who issued it, its signature and its purpose
//!   are checked as ever.
//!
//! A clock that may be right is believed, synchronised or not.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
};

/// Certificates of one chain that may begin after the earliest time.
const CHAIN_LIMIT: usize = 8;

#[derive(Debug)]
pub(super) struct Clients {
    pub(super) chains: Arc<dyn ClientCertVerifier>,
    /// The time is not before this.
    pub(super) earliest: UnixTime,
}

impl Clients {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if now >= self.earliest {
            return self.chains.verify_client_cert(end_entity, intermediates, now);
        }
        let mut at = self.earliest;
        for _ in 0..CHAIN_LIMIT {
            match self.chains.verify_client_cert(end_entity, intermediates, at) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before, ..
                })) if not_before > at => at = not_before,
                done => return done,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }
}

impl ClientCertVerifier for Clients {
    fn offer_client_auth(&self) -> bool {
        self.chains.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chains.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// `unix_s` as rustls has it.
pub(super) fn time(unix_s: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_s))
}
