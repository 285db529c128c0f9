//! What the agent says about itself at the site: `GET /control/status`, and Mast's own lines of `/metrics`.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use egress::{Capability, Ident, Provider};
use engine_ort::{Runtime, Telemetry};
use engine_process::{ProcessBackend, WorkerView};
use journal::IndexState;
use link::UplinkConfig;
use serve::{ModelStats, ModelView, Serve};

use super::memory::resident_bytes;
use super::outbox::Outbox;
use super::uplink::UplinkView;
use crate::config::{Config, SiteConfig};
use crate::status::{
    FenceStatus, ModelStatus, OutboxStatus, PolicyStatus, RuntimeStatus, SiteStatus, Status, UplinkStatus,
    WorkerStatus,
};

/// Reads every part of the agent and changes none.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) started: Instant,
    pub(crate) config: Config,
    pub(crate) addresses: front::Addresses,
    pub(crate) credentials: front::Credentials,
    pub(crate) serve: Arc<Serve>,
    pub(crate) runtime: Runtime,
    pub(crate) workers: Arc<ProcessBackend>,
    pub(crate) resident_before_runtime: Option<u64>,
    pub(crate) outbox: Option<Arc<Outbox>>,
    pub(crate) uplink: Option<UplinkView>,
}

impl Observer {
    pub(crate) fn status(&self) -> Status {
        let pressure = self.serve.pressure();
        Status {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            ready: self.serve.is_ready(),
            draining: self.serve.is_draining(),
            http: self.addresses.http.to_string(),
            grpc: self.addresses.grpc.to_string(),
            metrics: self.addresses.metrics.to_string(),
            credentials: self.credentials.view(),
            resident_bytes: resident_bytes(),
            resident_before_runtime_bytes: self.resident_before_runtime,
            runtime: Some(self.runtime_status()),
            workers: self.workers(),
            sandbox: self.sandbox(),
            site: self.config.site.as_ref().map(site_status),
            policy: PolicyStatus {
                source: match &self.config.policy.path {
                    Some(path) => path.display().to_string(),
                    None => "built-in: one local tenant".to_owned(),
                },
                digest: self.serve.policy().digest().to_owned(),
                refusals: self.serve.refusals(),
            },
            models: self.models(),
            buffered_bytes: pressure.buffered_bytes,
            buffered_limit_bytes: pressure.buffered_limit_bytes,
            outbox: self.outbox.as_ref().map(|outbox| outbox_status(outbox)),
            uplink: self.uplink.as_ref().map(uplink_status),
        }
    }

    pub(crate) fn status_json(&self) -> serde_json::Value {
        // Numbers, strings and lists always have a JSON form.
        serde_json::to_value(self.status()).unwrap_or_default()
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        let workers = self.workers.workers().into_iter();
        let status = |view: WorkerView| WorkerStatus {
            pid: view.pid,
            model: view.model,
            private_bytes: view.private_bytes,
        };
        workers.map(status).collect()
    }

    fn sandbox(&self) -> Vec<FenceStatus> {
        let report = self.workers.sandbox().unwrap_or_default();
        let status = |fence: engine_process::FenceReport| FenceStatus {
            fence: fence.fence.name().to_owned(),
            state: fence.state.name().to_owned(),
            detail: fence.detail,
        };
        report.fences.into_iter().map(status).collect()
    }

    fn runtime_status(&self) -> RuntimeStatus {
        RuntimeStatus {
            path: self.runtime.path().display().to_string(),
            version: self.runtime.version().to_owned(),
            telemetry: match self.runtime.telemetry() {
                Telemetry::None => "none".to_owned(),
                Telemetry::AllowedByName => {
                    "uploader in the library, allowed by name, switched off".to_owned()
                }
            },
        }
    }

    fn models(&self) -> Vec<ModelStatus> {
        let (views, stats) = (self.serve.models(), self.serve.stats());
        let index = self.serve.index();
        let rows = index.into_iter().map(|entry| {
            let is = |name: &str, version: u64| name == entry.name && Some(version) == entry.version;
            let view = views.iter().find(|view| is(&view.name, view.version));
            let stats = stats.iter().find(|stats| is(&stats.model, stats.version));
            model_status(&entry, view, stats)
        });
        rows.collect()
    }

    /// Appends Mast's own metrics that only the whole agent knows, Prometheus text format 0.0.4.
    pub(crate) fn write_metrics(&self, text: &mut String) {
        let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
            // Writing into a String cannot fail.
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n").ok();
        };
        metric("mast_uptime_seconds", "gauge", "Since the agent started.", self.started.elapsed().as_secs());
        if let Some(bytes) = resident_bytes() {
            metric("mast_resident_bytes", "gauge", "Resident memory of the daemon.", bytes);
        }
        metric(
            "mast_worker_starts_total",
            "counter",
            "Worker processes that were started.",
            self.workers.started(),
        );
        let workers = u64::try_from(self.workers.workers().len()).unwrap_or(u64::MAX);
        metric("mast_workers", "gauge", "Worker processes that run.", workers);
        if let Some(outbox) = &self.outbox {
            let status = outbox.status();
            metric(
                "mast_outbox_pending_records",
                "gauge",
                "Records no hub has acknowledged.",
                status.pending_records,
            );
            metric("mast_outbox_bytes", "gauge", "Bytes of the outbox on disk.", status.disk_bytes);
            metric("mast_outbox_quota_bytes", "gauge", "Bytes the outbox may take.", status.quota_bytes);
            let age = status.oldest_pending.map_or(0, |age| age.as_secs());
            metric("mast_outbox_oldest_seconds", "gauge", "Age of the oldest pending record.", age);
            metric(
                "mast_outbox_written_bytes_total",
                "counter",
                "Bytes written to segments.",
                status.bytes_written,
            );
        }
        if let Some(uplink) = &self.uplink {
            let state = uplink.state.borrow();
            metric(
                "mast_uplink_connected",
                "gauge",
                "1 while the broker accepts us.",
                u64::from(state.connected),
            );
            metric("mast_uplink_published_total", "counter", "Batches published.", state.counts.published);
            metric("mast_uplink_resent_total", "counter", "Batches published again.", state.counts.resent);
            metric("mast_uplink_acks_total", "counter", "Acknowledgements believed.", state.counts.acks);
            metric(
                "mast_uplink_bad_acks_total",
                "counter",
                "Acknowledgements refused.",
                state.counts.bad_acks,
            );
            metric("mast_uplink_restarts_total", "counter", "Restarts of its process.", uplink.restarts());
        }
    }
}

fn model_status(
    entry: &serve::IndexEntry,
    view: Option<&ModelView>,
    stats: Option<&ModelStats>,
) -> ModelStatus {
    let placement = view.map(|view| &view.placement);
    let mean_us = |counted: serve::Counted| counted.ns.checked_div(counted.count).unwrap_or(0) / 1_000;
    ModelStatus {
        name: entry.name.clone(),
        version: entry.version,
        state: entry.state.name().to_owned(),
        reason: entry.reason.clone(),
        provider: placement.map(|placement| placement.provider.to_string()).unwrap_or_default(),
        device: placement.map(|placement| placement.device.name.clone()).unwrap_or_default(),
        nodes: placement.map_or_else(Vec::new, |placement| {
            placement.assignments.iter().map(|one| (one.provider.to_string(), one.nodes)).collect()
        }),
        warnings: view.map_or_else(Vec::new, |view| view.warnings.to_vec()),
        memory_bytes: view.map_or(0, |view| view.footprint.host_bytes),
        fallbacks: placement.map_or_else(Vec::new, |placement| {
            let failed = placement.attempts.iter();
            failed.filter_map(|one| Some((one.provider.to_string(), one.failure.clone()?))).collect()
        }),
        pending: stats.map_or(0, |stats| stats.pending),
        success: stats.map_or(0, |stats| stats.all.success.count),
        failed: stats.map_or(0, |stats| stats.all.fail.count),
        refused: stats.map_or(0, |stats| stats.all.refused),
        queue_us: stats.map_or(0, |stats| mean_us(stats.all.queue)),
        compute_us: stats.map_or(0, |stats| mean_us(stats.all.compute_infer)),
    }
}

fn outbox_status(outbox: &Outbox) -> OutboxStatus {
    let status = outbox.status();
    OutboxStatus {
        epoch: format!("{:016x}", status.epoch),
        next_seq: status.next_seq,
        acked_seq: status.acked_seq,
        pending_records: status.pending_records,
        disk_bytes: status.disk_bytes,
        quota_bytes: status.quota_bytes,
        oldest_age_s: status.oldest_pending.map(|age| age.as_secs()),
        disk_full: status.disk_full,
        index: match status.index {
            IndexState::Intact => "intact".to_owned(),
            IndexState::Rebuilt { reason } => format!("rebuilt: {reason}"),
            IndexState::Off { reason } => format!("off, reads scan the segments: {reason}"),
        },
    }
}

fn uplink_status(view: &UplinkView) -> UplinkStatus {
    let state = view.state.borrow();
    UplinkStatus {
        broker: view.broker.clone(),
        connected: state.connected,
        reason: state.reason,
        pid: view.pid(),
        reconnects: state.counts.connects.saturating_sub(1),
        published: state.counts.published,
        resent: state.counts.resent,
        acks: state.counts.acks,
        bad_acks: state.counts.bad_acks,
        restarts: view.restarts(),
        last_error: state.detail.clone(),
    }
}

fn site_status(site: &SiteConfig) -> SiteStatus {
    SiteStatus {
        org: site.org.to_string(),
        region: site.region.to_string(),
        site: site.site.to_string(),
        box_id: site.box_id.to_string(),
        jurisdiction: site.jurisdiction.to_string(),
    }
}

/// What the child is told about the box it speaks for.
pub(crate) fn uplink_config(
    hub: &link::Config,
    site: &SiteConfig,
    epoch: u64,
) -> Result<UplinkConfig, egress::Error> {
    Ok(UplinkConfig {
        hub: hub.clone(),
        site: egress::Site {
            org: site.org.clone(),
            region: site.region.clone(),
            site: site.site.clone(),
            box_id: site.box_id.clone(),
            jurisdiction: site.jurisdiction.clone(),
        },
        epoch,
        boot: boot_id(),
        agent: Ident::new(env!("CARGO_PKG_VERSION"))?,
        caps: vec![Capability::Metrics, Capability::Rollup],
    })
}

/// The provider's word on the way out.
pub(crate) fn egress_provider(provider: engine::Provider) -> Provider {
    match provider {
        engine::Provider::TensorRt => Provider::TensorRt,
        engine::Provider::Cuda => Provider::Cuda,
        engine::Provider::Wgpu => Provider::Wgpu,
        engine::Provider::Cpu => Provider::Cpu,
    }
}

/// Names this run of the agent: random, so that it holds with a clock at 1970 and without any state.
fn boot_id() -> u64 {
    // Every RandomState is keyed by the operating system's randomness.
    RandomState::new().build_hasher().finish()
}
