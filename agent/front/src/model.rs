//! Health, metadata, configuration and statistics, in the shapes that Triton's clients read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use engine::{DataType, Provider, TensorSpec};
use serde_json::{Value, json};
use serve::{Counted, Counts, ModelStats, ModelView};
use wire::{Error, ErrorCode};

use crate::app::App;
use crate::fault::Fault;
use crate::target::Target;

pub(crate) async fn server(State(app): State<Arc<App>>) -> Json<Value> {
    let mut extensions =
        vec!["classification", "model_configuration", "binary_tensor_data", "parameters", "statistics"];
    if app.repository_control {
        extensions.push("model_repository");
    }
    Json(json!({ "name": "mast", "version": env!("CARGO_PKG_VERSION"), "extensions": extensions }))
}

pub(crate) async fn live() {}

/// Not ready is 400 with nothing in it, as in Triton.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> StatusCode {
    if app.serve.is_ready() { StatusCode::OK } else { StatusCode::BAD_REQUEST }
}

pub(crate) async fn model_ready(State(app): State<Arc<App>>, target: Target) -> Result<(), Fault> {
    if app.serve.is_model_ready(&target.model, target.version)? {
        Ok(())
    } else {
        Err(Error::invalid("Model version not ready").into())
    }
}

pub(crate) async fn metadata(State(app): State<Arc<App>>, target: Target) -> Result<Json<Value>, Fault> {
    let view = app.serve.find(&target.model, target.version)?;
    let tensor = |spec: &TensorSpec| json!({ "name": spec.name, "datatype": spec.datatype.name(), "shape": spec.wire_shape() });
    Ok(Json(json!({
        "name": *view.name,
        "versions": view.versions.iter().map(u64::to_string).collect::<Vec<_>>(),
        "platform": "onnxruntime_onnx",
        "inputs": view.signature.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": view.signature.outputs.iter().map(tensor).collect::<Vec<_>>(),
    })))
}

pub(crate) async fn config(State(app): State<Arc<App>>, target: Target) -> Result<Json<Value>, Fault> {
    let view = app.serve.find(&target.model, target.version)?;
    Ok(Json(model_config(&view)))
}

/// Triton's ModelConfig (common/protobuf/model_config.proto) as its server prints it: 64-bit numbers as numbers.
fn model_config(view: &ModelView) -> Value {
    let batches = view.config.max_batch_size > 0;
    let tensor = |spec: &TensorSpec| {
        let dims: Vec<i64> = spec.wire_shape().into_iter().skip(usize::from(batches)).collect();
        json!({ "name": spec.name, "data_type": proto_type(spec.datatype), "dims": dims })
    };
    let on_gpu = view.placement.provider != Provider::Cpu;
    let mut config = json!({
        "name": *view.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "version_policy": { "latest": { "num_versions": 1 } },
        "max_batch_size": view.config.max_batch_size,
        "input": view.signature.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "output": view.signature.outputs.iter().map(tensor).collect::<Vec<_>>(),
        "instance_group": [{
            "name": *view.name,
            "kind": if on_gpu { "KIND_GPU" } else { "KIND_CPU" },
            "count": 1,
        }],
        "model_transaction_policy": { "decoupled": false },
    });
    // The key's presence is what tells a client that requests share batches.
    if let (true, Some(keys)) = (batches, config.as_object_mut()) {
        let batching = json!({ "max_queue_delay_microseconds": view.config.batch_delay_us });
        keys.insert("dynamic_batching".to_owned(), batching);
    }
    config
}

/// The enumeration `DataType` of model_config.proto.
fn proto_type(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    }
}

pub(crate) async fn all_stats(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "model_stats": app.serve.stats().iter().map(model_stats).collect::<Vec<_>>() }))
}

pub(crate) async fn stats(State(app): State<Arc<App>>, target: Target) -> Result<Json<Value>, Fault> {
    // A model that is known and has no statistics yet is an empty list; an unknown one is an error.
    let stats: Vec<Value> = app
        .serve
        .stats()
        .iter()
        .filter(|stats| stats.model == target.model)
        .filter(|stats| target.version.is_none_or(|version| version == stats.version))
        .map(model_stats)
        .collect();
    if stats.is_empty() {
        app.serve.find(&target.model, target.version).map_err(|error| match error.code {
            ErrorCode::UnknownModel => error,
            _ => Error::invalid(format!("requested model version is not available for '{}'", target.model)),
        })?;
    }
    Ok(Json(json!({ "model_stats": stats })))
}

/// Every field is there even when zero: perf_analyzer reads without looking first.
fn model_stats(stats: &ModelStats) -> Value {
    let Counts { success, fail, queue, compute_input, compute_infer, compute_output, .. } = &stats.all;
    let zero = counted(Counted::default());
    let batches = stats.all.batches.iter().map(|(rows, infer)| {
        let nothing = json!({ "count": infer.count, "ns": 0 });
        json!({
            "batch_size": rows,
            "compute_input": nothing,
            "compute_infer": counted(*infer),
            "compute_output": nothing,
        })
    });
    json!({
        "name": stats.model,
        "version": stats.version.to_string(),
        "last_inference": stats.last_inference_unix_ms,
        "inference_count": stats.all.inference_count,
        "execution_count": stats.all.execution_count,
        "inference_stats": {
            "success": counted(*success),
            "fail": counted(*fail),
            "queue": counted(*queue),
            "compute_input": counted(*compute_input),
            "compute_infer": counted(*compute_infer),
            "compute_output": counted(*compute_output),
            "cache_hit": zero,
            "cache_miss": zero,
        },
        "batch_stats": batches.collect::<Vec<_>>(),
        "memory_usage": [],
        "response_stats": {},
    })
}

fn counted(counted: Counted) -> Value {
    json!({ "count": counted.count, "ns": counted.ns })
}
