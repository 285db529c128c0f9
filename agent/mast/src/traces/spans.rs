//! Requests as OTLP spans: one `infer` of kind SERVER, and below it `queue`, `batch` and `compute` where it came
//! that far.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use front::{Finished, Outcome};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

/// The body of `POST /v1/traces`.
pub(super) fn encode(batch: &[Finished]) -> Bytes {
    let mut spans = Vec::with_capacity(batch.len() * 4);
    batch.iter().for_each(|finished| add(&mut spans, finished));
    let scope = InstrumentationScope {
        name: "mast".to_owned(),
        version: version(),
        ..InstrumentationScope::default()
    };
    let attributes = vec![text("service.name", "mast"), text("service.version", &version())];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    };
    request.encode_to_vec().into()
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn add(spans: &mut Vec<Span>, finished: &Finished) {
    let started = finished.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (trace, parent) = match &finished.parent {
        Some(parent) => (parent.trace.to_vec(), parent.span.to_vec()),
        None => (id(rand::random::<[u8; 16]>()), Vec::new()),
    };
    let root = id(rand::random::<[u8; 8]>());
    if let (Some(ran), Some(accepted)) = (&finished.ran, finished.accepted) {
        let mut at = started + accepted;
        for (name, length) in
            [("queue", ran.timings.queue), ("batch", ran.timings.batch), ("compute", ran.timings.compute)]
        {
            spans.push(Span {
                trace_id: trace.clone(),
                span_id: id(rand::random::<[u8; 8]>()),
                parent_span_id: root.clone(),
                name: name.to_owned(),
                kind: SpanKind::Internal.into(),
                start_time_unix_nano: nanoseconds(at),
                end_time_unix_nano: nanoseconds(at + length),
                ..Span::default()
            });
            at += length;
        }
    }
    spans.push(Span {
        trace_id: trace,
        span_id: root,
        parent_span_id: parent,
        name: "infer".to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanoseconds(started),
        end_time_unix_nano: nanoseconds(started + finished.took),
        attributes: attributes(finished),
        status: Some(status(finished)),
        ..Span::default()
    });
}

fn attributes(finished: &Finished) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("mast.request_id", &finished.id.to_string()),
        text("mast.protocol", finished.protocol),
        text("mast.status", finished.outcome.word()),
    ];
    if let Some(model) = &finished.model {
        attributes.push(text("mast.model", model));
    }
    if let Some(ran) = &finished.ran {
        attributes.push(number("mast.model_version", ran.version));
        attributes.push(text("mast.provider", ran.ran.provider.name()));
        attributes.push(text("mast.device", &ran.ran.device.id));
        let rows = u64::try_from(ran.timings.batch_rows).unwrap_or(u64::MAX);
        attributes.push(number("mast.batch_rows", rows));
    }
    attributes
}

/// Without a message: an error's text may repeat what the client sent.
fn status(finished: &Finished) -> Status {
    let code = if finished.outcome == Outcome::Answered { StatusCode::Ok } else { StatusCode::Error };
    Status { code: code.into(), message: String::new() }
}

/// Bytes of an identifier, which must not all be zero.
fn id<const N: usize>(mut random: [u8; N]) -> Vec<u8> {
    if let Some(first) = random.first_mut() {
        *first |= 1;
    }
    random.to_vec()
}

fn nanoseconds(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn number(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
