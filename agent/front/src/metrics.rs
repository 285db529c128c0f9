//! `GET /metrics`: the Prometheus text format 0.0.4. Triton's names (`nv_inference_*`) where Mast counts the same
//! thing, its own under `mast_`. What is not measured is absent, never zero.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serve::{COMPUTE_BOUNDS_US, IndexEntry, ModelStats, ModelView, Pressure};

use crate::app::App;

pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut text = render(&app);
    if let Some(more) = &app.metrics {
        more(&mut text);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

fn render(app: &App) -> String {
    let serve = &*app.serve;
    let mut page = Page { text: String::with_capacity(8 << 10) };
    let stats = serve.stats();
    triton(&mut page, &stats);
    own(&mut page, &stats);
    models(&mut page, &serve.models(), &serve.index());
    let mut refusals: BTreeMap<String, u64> = serve.refusals().into_iter().collect();
    *refusals.entry("unknown-label".to_owned()).or_default() += app.unread_labels.load(Ordering::Relaxed);
    agent(&mut page, serve.pressure(), &refusals, serve.is_ready());
    page.text
}

type Number = fn(&ModelStats) -> u64;

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
        let mut below = 0;
        let bounds = COMPUTE_BOUNDS_US.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(stats.all.compute_histogram) {
            below += count;
            let labels = [of(stats).as_slice(), &[("le", bound)]].concat();
            page.sample("mast_compute_duration_us_bucket", &labels, below);
        }
        page.sample("mast_compute_duration_us_sum", &of(stats), stats.all.compute_infer.ns / 1000);
        page.sample("mast_compute_duration_us_count", &of(stats), below);
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

struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, String)], value: impl Display) {
        self.text.push_str(name);
        for (index, (key, text)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(key);
            self.text.push_str("=\"");
            self.escaped(text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        self.write(format_args!(" {value}\n"));
    }

    /// A label value: backslash, quote and line feed are escaped.
    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }

    /// Writing to a String cannot fail.
    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let check = |value: &str, expected: &str| {
            let mut page = Page { text: String::new() };
            page.sample("m", &[("a", value.to_owned()), ("b", String::new())], 3);
            assert_eq!(page.text, format!("m{{a=\"{expected}\",b=\"\"}} 3\n"));
        };
        check("plain", "plain");
        check("a\"b\\c\nd", "a\\\"b\\\\c\\nd");
        check("} 1\n", "} 1\\n");
    }
}
