//! `GET /metrics`: the Prometheus text format 0.0.4. Triton's names (`nv_inference_*`) where Mast counts the same
//! thing, its own under `mast_`. What is not measured is absent, never zero.

mod page;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serve::{COMPUTE_BOUNDS_US, IndexEntry, LevelStats, ModelStats, ModelView, Pressure};

use crate::app::App;
pub(crate) use page::Page;

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut text = render(&app);
    if let Some(more) = &app.metrics {
        more(&mut text);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn render(app: &App) -> String {
    let serve = &*app.serve;
    let mut page = Page::default();
    let stats = serve.stats();
    triton(&mut page, &stats);
    own(&mut page, &stats);
    queues(&mut page, &stats);
    models(&mut page, &serve.models(), &serve.index());
    let mut refusals: BTreeMap<String, u64> = serve.refusals().into_iter().collect();
    *refusals.entry("unknown-label".to_owned()).or_default() += app.unread_labels.load(Ordering::Relaxed);
    agent(&mut page, serve.pressure(), &refusals, serve.is_ready());
    app.refusal_times.write(&mut page);
    app.credentials.write(&mut page);
    page.into_text()
}

type Number = fn(&ModelStats) -> u64;
type NumberOfLevel = fn(&LevelStats) -> u64;

fn triton(page: &mut Page, stats: &[ModelStats]) {
    let counters: [(&str, &str, Number); 9] = [
        ("nv_inference_request_success", "Requests with a result", |s| s.all.success.count),
        ("nv_inference_count", "Rows of requests with a result", |s| s.all.inference_count),
        ("nv_inference_exec_count", "Batches that ran", |s| s.all.execution_count),
        ("nv_inference_request_duration_us", "Time of requests with a result", |s| s.all.success.ns / 1000),
        ("nv_inference_queue_duration_us", "Time in the queue", |s| s.all.queue.ns / 1000),
        ("nv_inference_compute_input_duration_us", "Time to form batches", |s| s.all.compute_input.ns / 1000),
        ("nv_inference_compute_infer_duration_us", "Time in the engine", |s| s.all.compute_infer.ns / 1000),
        ("nv_inference_compute_output_duration_us", "Time to split results", |s| {
            s.all.compute_output.ns / 1000
        }),
        ("mast_requests_refused_total", "Requests refused before they had a place in the queue", |s| {
            s.all.refused
        }),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        for stats in stats {
            page.sample(name, &of(stats), value(stats));
        }
    }
    let name = "nv_inference_request_failure";
    page.family(name, "counter", "Requests without a result");
    for stats in stats {
        let failures = stats.all.failures;
        for (reason, value) in [
            ("REJECTED", failures.rejected),
            ("CANCELED", failures.canceled),
            ("BACKEND", failures.backend),
            ("OTHER", failures.other),
        ] {
            page.sample(name, &[of(stats).as_slice(), &[("reason", reason.to_owned())]].concat(), value);
        }
    }
    let name = "nv_inference_pending_request_count";
    page.family(name, "gauge", "Requests accepted and not answered yet");
    for stats in stats {
        page.sample(name, &of(stats), stats.pending);
    }
    let name = "nv_model_load_duration_secs";
    page.family(name, "gauge", "Time of the last load");
    for stats in stats {
        page.sample(name, &of(stats), stats.load_duration.as_secs_f64());
    }
}

fn own(page: &mut Page, stats: &[ModelStats]) {
    let name = "mast_provider_fallbacks_total";
    page.family(name, "counter", "Providers of a model's list that could not be used");
    for stats in stats {
        page.sample(name, &of(stats), stats.provider_failures);
    }
    let name = "mast_compute_duration_us";
    page.family(name, "histogram", "Compute time of requests");
    for stats in stats {
        let sum_us = stats.all.compute_infer.ns / 1000;
        page.histogram(name, &of(stats), &COMPUTE_BOUNDS_US, stats.all.compute_histogram, sum_us);
    }
}

/// What waits and what keeps state.
fn queues(page: &mut Page, stats: &[ModelStats]) {
    let name = "mast_model_instances";
    page.family(name, "gauge", "Engines that serve side by side");
    for stats in stats {
        page.sample(name, &of(stats), stats.instances);
    }
    let levels: [(&str, &str, &str, NumberOfLevel); 3] = [
        ("mast_model_pending", "gauge", "Requests in the queue by priority; 1 is the highest", |it| {
            it.pending
        }),
        ("mast_model_refused_total", "counter", "Requests without a place in the queue", |it| it.refused),
        ("mast_model_expired_total", "counter", "Requests that were not run in time", |it| it.expired),
    ];
    for (name, kind, help, value) in levels {
        page.family(name, kind, help);
        for stats in stats {
            for level in &stats.levels {
                let labels = [of(stats).as_slice(), &[("priority", level.level.to_string())]].concat();
                page.sample(name, &labels, value(level));
            }
        }
    }
    let keeping = || stats.iter().filter_map(|stats| Some((of(stats), stats.sequences?)));
    let name = "mast_sequences_live";
    page.family(name, "gauge", "Sequences whose state is kept");
    for (labels, sequences) in keeping() {
        page.sample(name, &labels, sequences.live);
    }
    let name = "mast_sequences_ended_total";
    page.family(name, "counter", "Sequences that are over");
    for (labels, sequences) in keeping() {
        for (reason, value) in
            [("end", sequences.ended), ("idle", sequences.expired), ("lost", sequences.lost)]
        {
            page.sample(name, &[labels.as_slice(), &[("reason", reason.to_owned())]].concat(), value);
        }
    }
}

fn models(page: &mut Page, models: &[ModelView], index: &[IndexEntry]) {
    let name = "mast_model_info";
    page.family(name, "gauge", "What a model really runs on; always 1");
    for view in models {
        let labels = [
            ("model", view.name.to_string()),
            ("version", view.version.to_string()),
            ("provider", view.placement.provider.to_string()),
            ("device", view.placement.device.id.clone()),
        ];
        page.sample(name, &labels, 1);
    }
    let name = "mast_model_warnings";
    page.family(name, "gauge", "What of a model's configuration is not as it was written");
    for view in models {
        let labels = [("model", view.name.to_string()), ("version", view.version.to_string())];
        page.sample(name, &labels, view.warnings.len());
    }
    let name = "mast_model_state";
    page.family(name, "gauge", "The state of a model of the repository; always 1");
    for entry in index {
        let labels = [
            ("model", entry.name.clone()),
            ("version", entry.version.map(|version| version.to_string()).unwrap_or_default()),
            ("state", entry.state.to_string()),
        ];
        page.sample(name, &labels, 1);
    }
}

fn agent(page: &mut Page, pressure: Pressure, refusals: &BTreeMap<String, u64>, ready: bool) {
    let gauges: [(&str, &str, u64); 4] = [
        ("mast_ready", "Whether the agent takes requests", u64::from(ready)),
        ("mast_buffered_bytes", "Bytes of bodies being read or queued", pressure.buffered_bytes),
        ("mast_buffered_limit_bytes", "The most of them", pressure.buffered_limit_bytes),
        ("mast_pending_requests", "Requests of all models not answered yet", pressure.pending_requests),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, &[], value);
    }
    let name = "mast_refused_total";
    page.family(name, "counter", "Requests refused by the residency policy");
    for (rule, count) in refusals {
        page.sample(name, &[("rule", rule.clone())], count);
    }
}

type Labels = Vec<(&'static str, String)>;

fn of(stats: &ModelStats) -> Labels {
    vec![("model", stats.model.clone()), ("version", stats.version.to_string())]
}
