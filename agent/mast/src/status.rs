//! What `GET /control/status` on the control socket answers, and `mast status` prints.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) agent_version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_s: u64,
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    pub(crate) http: String,
    pub(crate) grpc: String,
    pub(crate) metrics: String,
    /// The certificate and the keys of the TCP listeners.
    #[serde(default)]
    pub(crate) credentials: front::CredentialsView,
    /// Resident memory now; absent where /proc is not mounted.
    pub(crate) resident_bytes: Option<u64>,
    /// The same just before ONNX Runtime was loaded.
    pub(crate) resident_before_runtime_bytes: Option<u64>,
    pub(crate) runtime: Option<RuntimeStatus>,
    /// Processes that run models; empty where all run in the agent.
    #[serde(default)]
    pub(crate) workers: Vec<WorkerStatus>,
    /// What keeps a worker in, as the kernel of this box gave it to the first one.
    #[serde(default)]
    pub(crate) sandbox: Vec<FenceStatus>,
    pub(crate) site: Option<SiteStatus>,
    pub(crate) policy: PolicyStatus,
    pub(crate) models: Vec<ModelStatus>,
    pub(crate) buffered_bytes: u64,
    pub(crate) buffered_limit_bytes: u64,
    pub(crate) outbox: Option<OutboxStatus>,
    pub(crate) uplink: Option<UplinkStatus>,
}

/// The ONNX Runtime library that is loaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RuntimeStatus {
    pub(crate) path: String,
    pub(crate) version: String,
    /// "none", or that the operator allowed this library by name although it carries the uploader.
    pub(crate) telemetry: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkerStatus {
    pub(crate) pid: u32,
    /// The model it was started for; others on the same GPU share it.
    pub(crate) model: String,
    pub(crate) private_bytes: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FenceStatus {
    pub(crate) fence: String,
    /// "enforced", "partial" or "unavailable".
    pub(crate) state: String,
    pub(crate) detail: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SiteStatus {
    pub(crate) org: String,
    pub(crate) region: String,
    pub(crate) site: String,
    #[serde(rename = "box")]
    pub(crate) box_id: String,
    pub(crate) jurisdiction: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PolicyStatus {
    /// The file, or "built-in: one local tenant".
    pub(crate) source: String,
    /// SHA-256 of the policy text, hex.
    pub(crate) digest: String,
    /// Refusals by rule since start.
    pub(crate) refusals: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ModelStatus {
    pub(crate) name: String,
    pub(crate) version: Option<u64>,
    pub(crate) state: String,
    /// Why it is not ready.
    pub(crate) reason: String,
    /// What really runs it; empty while it is not loaded.
    pub(crate) provider: String,
    pub(crate) device: String,
    /// Nodes per provider, read back from the runtime.
    pub(crate) nodes: Vec<(String, usize)>,
    /// Providers that were tried and failed, with the reason.
    pub(crate) fallbacks: Vec<(String, String)>,
    /// What of its configuration is not as its owner wrote it.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    /// Host memory it was measured to take.
    #[serde(default)]
    pub(crate) memory_bytes: u64,
    pub(crate) pending: u64,
    pub(crate) success: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    /// Mean µs of the queue and the compute part since start.
    pub(crate) queue_us: u64,
    pub(crate) compute_us: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OutboxStatus {
    /// Hex of the stream's epoch.
    pub(crate) epoch: String,
    pub(crate) next_seq: u64,
    pub(crate) acked_seq: u64,
    pub(crate) pending_records: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) quota_bytes: u64,
    /// Age of the oldest record the hub has not acknowledged; absent when there is none.
    pub(crate) oldest_age_s: Option<u64>,
    /// "intact", or why the index was rebuilt.
    pub(crate) index: String,
    /// The last append met a full disk.
    pub(crate) disk_full: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UplinkStatus {
    pub(crate) broker: String,
    pub(crate) connected: bool,
    /// Why not, or why not before.
    pub(crate) reason: link::BrokerReason,
    pub(crate) pid: Option<u32>,
    pub(crate) reconnects: u64,
    pub(crate) published: u64,
    pub(crate) resent: u64,
    pub(crate) acks: u64,
    pub(crate) bad_acks: u64,
    pub(crate) restarts: u64,
    pub(crate) last_error: Option<String>,
}
