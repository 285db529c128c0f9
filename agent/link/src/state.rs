//! What the uplink says of itself: for `mast status`, `mast doctor` and `/metrics`, never for the hub.

use serde::{Deserialize, Serialize};

/// The state of the way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkState {
    /// Whether the broker has accepted the connection and the subscription to acknowledgements.
    pub connected: bool,
    /// Why not, or why not before.
    pub reason: BrokerReason,
    /// What is wrong, or was last, in the broker's or the library's words; gone once the hub is heard. For the local log and
    /// screen only.
    pub detail: Option<String>,
    /// The last number the hub acknowledged to this process; 0 before the first.
    pub acknowledged_seq: u64,
    /// Records sent and not acknowledged by the hub.
    pub pending_records: u64,
    /// Since the process started.
    pub counts: Counts,
}

impl Default for UplinkState {
    fn default() -> Self {
        Self {
            connected: false,
            reason: BrokerReason::Starting,
            detail: None,
            acknowledged_seq: 0,
            pending_records: 0,
            counts: Counts::default(),
        }
    }
}

/// What the uplink counted since its process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Batches published for the first time.
    pub published: u64,
    /// Batches published again.
    pub resent: u64,
    /// Acknowledgements of the hub that were believed.
    pub acks: u64,
    /// Acknowledgements that were not: bad signature, unknown key, wrong epoch, garbage.
    pub bad_acks: u64,
    /// Connections that the broker accepted.
    pub connects: u64,
    /// Connections that ended or did not come about.
    pub disconnects: u64,
    /// Records that were no record, and were not sent.
    pub rejected: u64,
    /// Numbers without a record: folded before they were sent, or lost.
    pub skipped: u64,
    /// Publications the broker refused (PUBACK with an error).
    pub refused: u64,
    /// Publications nobody was subscribed to (PUBACK 0x10), births too.
    pub unheard: u64,
}

/// How the connection to the broker is, in fixed words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokerReason {
    /// Not tried yet.
    Starting,
    /// Connected.
    Connected,
    /// The name does not resolve, the route is missing, or nothing listens.
    Unreachable,
    /// It did not answer in time, or stopped answering pings.
    Timeout,
    /// The TLS handshake failed: certificate, name or clock.
    Tls,
    /// The broker refused user name, password or certificate.
    Credentials,
    /// The broker does not let this box publish or subscribe.
    NotAuthorised,
    /// The broker is busy, over quota or shutting down.
    Busy,
    /// The broker closed the connection.
    Closed,
    /// A packet was larger than was agreed.
    PacketTooLarge,
    /// The broker broke the protocol, or does not speak MQTT 5.
    Protocol,
    /// A credential file cannot be read.
    CredentialFile,
    /// Stopped as asked.
    Stopped,
}

impl BrokerReason {
    /// The word used in logs and on screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connected => "connected",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Credentials => "credentials",
            Self::NotAuthorised => "not_authorised",
            Self::Busy => "busy",
            Self::Closed => "closed",
            Self::PacketTooLarge => "packet_too_large",
            Self::Protocol => "protocol",
            Self::CredentialFile => "credential_file",
            Self::Stopped => "stopped",
        }
    }
}

impl std::fmt::Display for BrokerReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
