//! What only the command line asks for, over the control socket. The shapes are Mast's own and change with it;
//! docs/specs/wire.md describes them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use engine::{Placement, TensorSpec};
use serde_json::{Value, json};
use serve::{
    BuildView, Channels, ClassifyConfig, DetectConfig, DetectKind, ImageConfig, Layout, ModelConfig,
    ModelView, Resize,
};

use crate::access::Principal;
use crate::app::App;
use crate::fault::Fault;
use crate::repository;

pub(crate) async fn status(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.status.as_ref().map_or(Value::Null, |status| status()))
}

pub(crate) async fn models(State(app): State<Arc<App>>) -> Result<Json<Value>, Fault> {
    let models: Vec<Value> = app.serve.models().iter().map(model).collect();
    Ok(Json(json!({ "models": models, "index": repository::rows(&app, &Principal::Local, false)? })))
}

fn model(view: &ModelView) -> Value {
    json!({
        "name": *view.name,
        "version": view.version,
        "versions": view.versions,
        "state": view.state.name(),
        "dir": *view.dir,
        "placement": placement(&view.placement),
        "building": view.building.as_ref().map(building),
        "inputs": view.signature.inputs.iter().map(tensor).collect::<Vec<_>>(),
        "outputs": view.signature.outputs.iter().map(tensor).collect::<Vec<_>>(),
        "config": config(&view.config),
        "warnings": *view.warnings,
        "memory": { "host_bytes": view.footprint.host_bytes, "device_bytes": view.footprint.device_bytes },
    })
}

fn placement(placement: &Placement) -> Value {
    let attempts = placement
        .attempts
        .iter()
        .map(|attempt| json!({ "provider": attempt.provider.name(), "failure": attempt.failure }));
    let assignments = placement.assignments.iter().map(|assignment| {
        json!({
            "provider": assignment.provider.name(),
            "nodes": assignment.nodes,
            "operators": assignment.operators,
        })
    });
    json!({
        "provider": placement.provider.name(),
        "device": { "id": placement.device.id, "name": placement.device.name },
        "attempts": attempts.collect::<Vec<_>>(),
        "assignments": assignments.collect::<Vec<_>>(),
    })
}

fn building(build: &BuildView) -> Value {
    json!({
        "provider": build.provider.name(),
        "elapsed_ms": u64::try_from(build.elapsed.as_millis()).unwrap_or(u64::MAX),
        "done": build.done,
        "total": build.total,
    })
}

fn tensor(spec: &TensorSpec) -> Value {
    json!({ "name": spec.name, "datatype": spec.datatype.name(), "shape": spec.wire_shape() })
}

/// With the keys of `model.toml`.
fn config(config: &ModelConfig) -> Value {
    json!({
        "providers": config.providers.iter().map(|provider| provider.name()).collect::<Vec<_>>(),
        "require": config.require.map(engine::Provider::name),
        "max_batch_size": config.max_batch_size,
        "batch_delay_us": config.batch_delay_us,
        "queue_limit": config.queue_limit,
        "threads": config.threads,
        "spinning": config.spinning,
        "device_memory_limit_bytes": config.device_memory_limit_bytes,
        "warmup": config.warmup,
        "instances": config.instances,
        "isolation": config.isolation.map(engine::Isolation::name),
        "preferred_batch_sizes": config.preferred_batch_sizes,
        "preserve_ordering": config.preserve_ordering,
        "image": config.image.as_ref().map(image),
        "classify": config.classify.as_ref().map(classify),
        "detect": config.detect.as_ref().map(detect),
        "text": config.text,
        "embed": config.embed,
    })
}

fn image(image: &ImageConfig) -> Value {
    let layout = match image.layout {
        Layout::Nchw => "nchw",
        Layout::Nhwc => "nhwc",
    };
    let channels = match image.channels {
        Channels::Rgb => "rgb",
        Channels::Bgr => "bgr",
    };
    let resize = match image.resize {
        Resize::Crop => "crop",
        Resize::Stretch => "stretch",
        Resize::Letterbox => "letterbox",
    };
    json!({
        "input": image.input,
        "width": image.width,
        "height": image.height,
        "layout": layout,
        "channels": channels,
        "resize": resize,
        "mean": image.mean,
        "std": image.std,
    })
}

fn classify(classify: &ClassifyConfig) -> Value {
    json!({
        "output": classify.output,
        "labels": classify.labels,
        "softmax": classify.softmax,
        "top": classify.top,
    })
}

fn detect(detect: &DetectConfig) -> Value {
    let DetectKind::Nanodet = detect.kind;
    json!({
        "kind": "nanodet",
        "labels": detect.labels,
        "strides": detect.strides,
        "scores": detect.scores,
        "boxes": detect.boxes,
        "reg_max": detect.reg_max,
        "score_threshold": detect.score_threshold,
        "iou_threshold": detect.iou_threshold,
    })
}
