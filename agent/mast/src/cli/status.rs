//! `mast status`: what a person on the spot must know within ten seconds.

use std::time::{Duration, SystemTime};

use super::{ConnectArgs, table};
use crate::exit::Exit;
use crate::status::{ModelStatus, OutboxStatus, PolicyStatus, Status, UplinkStatus};

const PATH: &str = "/control/status";
const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(args: &ConnectArgs) -> Exit {
    super::ask(args, PATH, TIMEOUT, show)
}

fn show(status: &Status) -> String {
    let state = match (status.draining, status.ready) {
        (true, _) => "SHUTTING DOWN",
        (false, true) => "ready",
        (false, false) => "NOT READY",
    };
    let mut rows = vec![
        table::row([
            "agent",
            &format!(
                "{state}; version {}, process {}, up {}",
                status.agent_version,
                status.pid,
                table::seconds(status.uptime_s)
            ),
        ]),
        table::row([
            "listens",
            &format!("http {}, grpc {}, metrics {}", status.http, status.grpc, status.metrics),
        ]),
    ];
    rows.extend(credentials(&status.credentials).map(|text| table::row(["callers", &text])));
    rows.push(match &status.runtime {
        Some(runtime) => table::row([
            "runtime",
            &format!("ONNX Runtime {}, telemetry {}, {}", runtime.version, runtime.telemetry, runtime.path),
        ]),
        None => table::row(["runtime", "none loaded"]),
    });
    rows.push(table::row(["engines", &engines(status)]));
    rows.push(match &status.site {
        Some(site) => table::row([
            "site",
            &format!(
                "{}/{}/{}/{}, jurisdiction {}",
                site.org, site.region, site.site, site.box_id, site.jurisdiction
            ),
        ]),
        None => table::row(["site", "not configured"]),
    });
    rows.push(table::row(["policy", &policy(&status.policy)]));
    let buffered = format!(
        "{} of {} buffered",
        table::bytes(status.buffered_bytes),
        table::bytes(status.buffered_limit_bytes)
    );
    rows.push(table::row(["bodies", &buffered]));
    let nothing = "none: no hub is configured, nothing leaves this box".to_owned();
    rows.push(table::row(["outbox", &status.outbox.as_ref().map_or_else(|| nothing.clone(), outbox)]));
    rows.push(table::row(["uplink", &status.uplink.as_ref().map_or(nothing, uplink)]));
    format!("{}\n{}", table::text(&rows), models(&status.models))
}

/// Where models run, and what keeps them in there.
fn engines(status: &Status) -> String {
    if status.workers.is_empty() {
        return "in the agent's own process".to_owned();
    }
    let bytes: u64 = status.workers.iter().filter_map(|worker| worker.private_bytes).sum();
    let fences = |state: &str| -> Vec<&str> {
        let fences = status.sandbox.iter().filter(|fence| fence.state == state);
        fences.map(|fence| fence.fence.as_str()).collect()
    };
    let mut text = format!("{} worker processes, {}", status.workers.len(), table::bytes(bytes));
    for (state, word) in [("enforced", "kept in by"), ("partial", "PARTLY by"), ("unavailable", "WITHOUT")] {
        let fences = fences(state);
        if !fences.is_empty() {
            text.push_str(&format!("; {word} {}", fences.join(", ")));
        }
    }
    text
}

/// Nothing where everybody may call.
fn credentials(view: &front::CredentialsView) -> Option<String> {
    let tls = view.certificate_not_after_unix_s.map(|end| {
        let days = end.saturating_sub(unix_s()) / 86_400;
        format!("TLS, certificate for {days} more days")
    });
    let keys = view.keys.map(|keys| format!("{keys} keys"));
    let failures = [&view.certificate_failure, &view.keys_failure].into_iter().flatten();
    let failures = failures.map(|failure| format!("CHANGED FILES NOT IN USE: {failure}"));
    let parts: Vec<String> = tls.into_iter().chain(keys).chain(failures).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn unix_s() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

fn policy(policy: &PolicyStatus) -> String {
    let digest = policy.digest.get(..16).unwrap_or(&policy.digest);
    let mut refusals = policy.refusals.iter().filter(|(_, count)| *count > 0).peekable();
    let refused = if refusals.peek().is_none() {
        "nothing refused".to_owned()
    } else {
        let by_rule: Vec<String> = refusals.map(|(rule, count)| format!("{count} by {rule}")).collect();
        format!("refused {}", by_rule.join(", "))
    };
    format!("{}, sha256 {digest}; {refused}", policy.source)
}

fn outbox(outbox: &OutboxStatus) -> String {
    let oldest =
        outbox.oldest_age_s.map_or_else(String::new, |age| format!(", oldest {}", table::seconds(age)));
    let full = if outbox.disk_full { "DISK FULL; " } else { "" };
    format!(
        "{full}{} records wait{oldest}; {} of {}; next {}, acknowledged {}, epoch {}; index {}",
        outbox.pending_records,
        table::bytes(outbox.disk_bytes),
        table::bytes(outbox.quota_bytes),
        outbox.next_seq,
        outbox.acked_seq,
        outbox.epoch,
        outbox.index
    )
}

fn uplink(uplink: &UplinkStatus) -> String {
    let state = if uplink.connected { "connected to" } else { "NOT CONNECTED to" };
    let error = uplink.last_error.as_ref().map_or_else(String::new, |error| format!("; last error: {error}"));
    let process = uplink.pid.map_or_else(|| "no process".to_owned(), |pid| format!("process {pid}"));
    format!(
        "{state} {} ({process}); {} sent, {} again, {} acks, {} bad; {} reconnections, {} restarts{error}",
        uplink.broker,
        uplink.published,
        uplink.resent,
        uplink.acks,
        uplink.bad_acks,
        uplink.reconnects,
        uplink.restarts
    )
}

fn models(models: &[ModelStatus]) -> String {
    if models.is_empty() {
        return "no models\n".to_owned();
    }
    let mut rows = vec![table::row([
        "MODEL", "VERSION", "STATE", "RUNS ON", "PENDING", "DONE", "FAILED", "REFUSED", "QUEUE", "COMPUTE",
    ])];
    let mut reasons = String::new();
    for model in models {
        let version = model.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        let runs_on = match (model.provider.as_str(), model.device.as_str()) {
            ("", _) => "-".to_owned(),
            (provider, "") => provider.to_owned(),
            (provider, device) => format!("{provider}, {device}"),
        };
        let [pending, done, failed, refused] =
            [model.pending, model.success, model.failed, model.refused].map(|count| count.to_string());
        let (queue, compute) = (table::micros(model.queue_us), table::micros(model.compute_us));
        rows.push(table::row([
            &model.name,
            &version,
            &model.state,
            &runs_on,
            &pending,
            &done,
            &failed,
            &refused,
            &queue,
            &compute,
        ]));
        if !model.reason.is_empty() {
            reasons.push_str(&format!("{}: {}\n", model.name, model.reason));
        }
        for warning in &model.warnings {
            reasons.push_str(&format!("{}: {warning}\n", model.name));
        }
        for (provider, reason) in &model.fallbacks {
            reasons.push_str(&format!("{}: {provider} was tried and not used: {reason}\n", model.name));
        }
    }
    if !reasons.is_empty() {
        reasons.insert(0, '\n');
    }
    format!("{}{reasons}", table::text(&rows))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status() -> Value {
        json!({
            "agent_version": "0.1.0", "pid": 7, "uptime_s": 3_900, "ready": true, "draining": false,
            "http": "127.0.0.1:8000", "grpc": "127.0.0.1:8001", "metrics": "127.0.0.1:8002",
            "runtime": { "path": "/usr/lib/mast/libonnxruntime.so", "version": "1.28.0", "telemetry": "none" },
            "workers": [{ "pid": 9, "model": "a", "private_bytes": 2_097_152 }],
            "sandbox": [
                { "fence": "seccomp", "state": "enforced", "detail": "" },
                { "fence": "landlock", "state": "unavailable", "detail": "old kernel" },
            ],
            "site": { "org": "acme", "region": "south", "site": "hill", "box": "b1", "jurisdiction": "DE-BY" },
            "policy": { "source": "/etc/mast/policy.toml", "digest": "0123456789abcdef0123", "refusals": [["eu-only", 3], ["x", 0]] },
            "models": [{
                "name": "a", "version": 1, "state": "READY", "reason": "", "provider": "cpu", "device": "cpu",
                "nodes": [["cpu", 70]], "fallbacks": [["cuda", "no driver"]], "pending": 2, "success": 40, "failed": 1,
                "refused": 3, "queue_us": 120, "compute_us": 11_500,
            }],
            "buffered_bytes": 1536, "buffered_limit_bytes": 268_435_456,
            "outbox": {
                "epoch": "ab12", "next_seq": 41, "acked_seq": 31, "pending_records": 10, "disk_bytes": 4096,
                "quota_bytes": 268_435_456, "oldest_age_s": 90, "index": "intact", "disk_full": false,
            },
            "uplink": {
                "broker": "mqtts://hub:8883", "connected": false, "reason": "unreachable", "pid": 8, "reconnects": 2, "published": 50,
                "resent": 9, "acks": 4, "bad_acks": 0, "restarts": 0, "last_error": "connection refused",
            },
        })
    }

    #[test]
    fn everything_on_one_screen() {
        let shown = show(&serde_json::from_value(status()).unwrap());
        let expected = "\
agent    ready; version 0.1.0, process 7, up 65 min
listens  http 127.0.0.1:8000, grpc 127.0.0.1:8001, metrics 127.0.0.1:8002
runtime  ONNX Runtime 1.28.0, telemetry none, /usr/lib/mast/libonnxruntime.so
engines  1 worker processes, 2.0 MiB; kept in by seccomp; WITHOUT landlock
site     acme/south/hill/b1, jurisdiction DE-BY
policy   /etc/mast/policy.toml, sha256 0123456789abcdef; refused 3 by eu-only
bodies   1.5 KiB of 256.0 MiB buffered
outbox   10 records wait, oldest 90 s; 4.0 KiB of 256.0 MiB; next 41, acknowledged 31, epoch ab12; index intact
uplink   NOT CONNECTED to mqtts://hub:8883 (process 8); 50 sent, 9 again, 4 acks, 0 bad; 2 reconnections, 0 restarts; last error: connection refused

MODEL  VERSION  STATE  RUNS ON   PENDING  DONE  FAILED  REFUSED  QUEUE   COMPUTE
a      1        READY  cpu, cpu  2        40    1       3        120 µs  11.5 ms

a: cuda was tried and not used: no driver
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn without_a_hub_and_without_models() {
        let mut value = status();
        for key in ["outbox", "uplink", "site", "runtime"] {
            value[key] = Value::Null;
        }
        value["models"] = json!([]);
        value["ready"] = json!(false);
        let shown = show(&serde_json::from_value(value).unwrap());
        for part in ["NOT READY", "none loaded", "not configured", "nothing leaves this box", "no models"] {
            assert!(shown.contains(part), "{shown} has no '{part}'");
        }
    }
}
