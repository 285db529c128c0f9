use std::path::PathBuf;

/// What failed between the agent and its hub.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `[hub]` cannot be used.
    #[error("hub.{key}: {problem}")]
    Config {
        /// The key in `[hub]`.
        key: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file that `[hub]` names cannot be read.
    #[error("hub.{key}: cannot read {path}")]
    Credential {
        /// The key in `[hub]`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The socket between agent and uplink.
    #[error("cannot {action} the uplink socket")]
    Socket {
        /// `read`, `write` or `open`.
        action: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The other end of the socket went away without being asked to.
    #[error("the other end of the uplink socket is gone")]
    Closed,
    /// The other end of the socket said something this end does not know.
    #[error("bad frame on the uplink socket: {problem}")]
    Frame {
        /// What was wrong.
        problem: &'static str,
        /// Where, if it was JSON.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The outbox could not be read or freed.
    #[error("cannot {action} the outbox")]
    Outbox {
        /// `read` or `free`.
        action: &'static str,
        /// The cause.
        #[source]
        source: crate::OutboxError,
    },
    /// Something of ours could not be encoded for the hub.
    #[error("cannot encode for the hub")]
    Egress(#[from] egress::Error),
}
