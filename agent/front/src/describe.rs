//! What the agent says of itself, its models and its repository: Triton's messages, which gRPC sends as they are and
//! HTTP as JSON. One source for both.

mod config;

use engine::TensorSpec;
use serve::{Counted, Counts, ModelStats, ModelView, Serve};
use triton::model_metadata_response::TensorMetadata;
use triton::repository_index_response::ModelIndex;
use triton::{
    InferBatchStatistics, InferStatistics, ModelMetadataResponse, ModelStatistics, ModelStatisticsResponse,
    RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration,
};
use wire::{Error, ErrorCode};

use crate::access::Principal;
pub(crate) use config::config;

const PLATFORM: &str = "onnxruntime_onnx";

/// Only extensions that are served: perf_analyzer acts on finding `statistics`.
pub(crate) fn server(administers: bool) -> ServerMetadataResponse {
    let mut extensions = vec![
        "classification",
        "sequence",
        "schedule_policy",
        "model_configuration",
        "binary_tensor_data",
        "parameters",
        "statistics",
    ];
    if administers {
        extensions.push("model_repository");
    }
    ServerMetadataResponse {
        name: "mast".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: extensions.into_iter().map(str::to_owned).collect(),
    }
}

pub(crate) fn metadata(view: &ModelView) -> ModelMetadataResponse {
    let tensor = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.name().to_owned(),
        shape: spec.wire_shape(),
    };
    ModelMetadataResponse {
        name: view.name.to_string(),
        versions: view.versions.iter().map(u64::to_string).collect(),
        platform: PLATFORM.to_owned(),
        inputs: view.signature.inputs.iter().map(tensor).collect(),
        outputs: view.signature.outputs.iter().map(tensor).collect(),
    }
}

/// The statistics of all models that the caller may use, of one, or of one version.
///
/// # Errors
/// A model that is known and has no statistics yet is an empty list; an unknown one is `UnknownModel`.
pub(crate) fn statistics(
    serve: &Serve,
    principal: &Principal,
    model: Option<&str>,
    version: Option<u64>,
) -> Result<ModelStatisticsResponse, Error> {
    let model_stats: Vec<_> = serve
        .stats()
        .iter()
        .filter(|stats| principal.may_use(&stats.model))
        .filter(|stats| model.is_none_or(|model| model == stats.model))
        .filter(|stats| version.is_none_or(|version| version == stats.version))
        .map(model_statistics)
        .collect();
    if let (Some(model), true) = (model, model_stats.is_empty()) {
        serve.find(model, version).map_err(|error| match error.code {
            ErrorCode::UnknownModel => error,
            _ => Error::invalid(format!("requested model version is not available for '{model}'")),
        })?;
    }
    Ok(ModelStatisticsResponse { model_stats })
}

/// Every duration is there even when zero: perf_analyzer reads without looking first.
fn model_statistics(stats: &ModelStats) -> ModelStatistics {
    let Counts { success, fail, queue, compute_input, compute_infer, compute_output, .. } = &stats.all;
    let batches = stats.all.batches.iter().map(|(rows, infer)| {
        let nothing = duration(Counted { count: infer.count, ns: 0 });
        InferBatchStatistics {
            batch_size: u64::try_from(*rows).unwrap_or(u64::MAX),
            compute_input: nothing,
            compute_infer: duration(*infer),
            compute_output: nothing,
        }
    });
    ModelStatistics {
        name: stats.model.clone(),
        version: stats.version.to_string(),
        last_inference: stats.last_inference_unix_ms,
        inference_count: stats.all.inference_count,
        execution_count: stats.all.execution_count,
        inference_stats: Some(InferStatistics {
            success: duration(*success),
            fail: duration(*fail),
            queue: duration(*queue),
            compute_input: duration(*compute_input),
            compute_infer: duration(*compute_infer),
            compute_output: duration(*compute_output),
            cache_hit: duration(Counted::default()),
            cache_miss: duration(Counted::default()),
        }),
        batch_stats: batches.collect(),
        ..ModelStatistics::default()
    }
}

#[allow(clippy::unnecessary_wraps, reason = "a field of a message is optional")]
fn duration(counted: Counted) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: counted.count, ns: counted.ns })
}

/// What of the repository the caller may see. A state that Triton has no word for is given as the nearest one that its clients know, with the reason beside
/// it: BUILDING serves, so it is READY.
pub(crate) fn index(serve: &Serve, principal: &Principal, serving_only: bool) -> RepositoryIndexResponse {
    let index = serve.index().into_iter().filter(|entry| principal.may_use(&entry.name));
    let entries = index.filter(|entry| !serving_only || entry.state.is_serving());
    let models = entries.map(|entry| {
        let building = entry.state == serve::State::Building;
        let state = if building { serve::State::Ready } else { entry.state };
        let reason = if building && entry.reason.is_empty() {
            "building a faster engine".to_owned()
        } else {
            entry.reason
        };
        let version = entry.version.map(|version| version.to_string()).unwrap_or_default();
        ModelIndex { name: entry.name, version, state: state.name().to_owned(), reason }
    });
    RepositoryIndexResponse { models: models.collect() }
}
