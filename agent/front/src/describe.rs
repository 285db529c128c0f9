//! What the agent says of itself, its models and its repository: Triton's messages, which gRPC sends as they are and
//! HTTP as JSON. One source for both.

use engine::{DataType, Provider, TensorSpec};
use serve::{Counted, Counts, ModelStats, ModelView, Serve};
use triton::model_config::SchedulingChoice;
use triton::model_metadata_response::TensorMetadata;
use triton::model_version_policy::{Latest, PolicyChoice};
use triton::repository_index_response::ModelIndex;
use triton::{
    InferBatchStatistics, InferStatistics, ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup,
    ModelMetadataResponse, ModelOutput, ModelStatistics, ModelStatisticsResponse, ModelTransactionPolicy,
    ModelVersionPolicy, RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration,
    model_instance_group,
};
use wire::{Error, ErrorCode};

const PLATFORM: &str = "onnxruntime_onnx";

/// Only extensions that are served: perf_analyzer acts on finding `statistics`.
pub(crate) fn server(repository_control: bool) -> ServerMetadataResponse {
    let mut extensions = vec![
        "classification",
        "sequence",
        "schedule_policy",
        "model_configuration",
        "binary_tensor_data",
        "parameters",
        "statistics",
    ];
    if repository_control {
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

pub(crate) fn config(view: &ModelView) -> ModelConfig {
    let batches = view.config.max_batch_size > 0;
    let dims = |spec: &TensorSpec| spec.wire_shape().into_iter().skip(usize::from(batches)).collect();
    let data_type = |spec: &TensorSpec| i32::from(data_type(spec.datatype));
    let input = |spec: &TensorSpec| ModelInput {
        name: spec.name.clone(),
        data_type: data_type(spec),
        dims: dims(spec),
        ..ModelInput::default()
    };
    let output = |spec: &TensorSpec| ModelOutput {
        name: spec.name.clone(),
        data_type: data_type(spec),
        dims: dims(spec),
        label_filename: label_file(view, spec),
        ..ModelOutput::default()
    };
    let kind = match view.placement.provider {
        Provider::Cpu => model_instance_group::Kind::Cpu,
        _ => model_instance_group::Kind::Gpu,
    };
    let batching = ModelDynamicBatching {
        max_queue_delay_microseconds: view.config.batch_delay_us,
        ..ModelDynamicBatching::default()
    };
    ModelConfig {
        name: view.name.to_string(),
        platform: PLATFORM.to_owned(),
        backend: "onnxruntime".to_owned(),
        version_policy: Some(ModelVersionPolicy {
            policy_choice: Some(PolicyChoice::Latest(Latest { num_versions: 1 })),
        }),
        max_batch_size: i32::try_from(view.config.max_batch_size).unwrap_or(i32::MAX),
        input: view.signature.inputs.iter().map(input).collect(),
        output: view.signature.outputs.iter().map(output).collect(),
        instance_group: vec![ModelInstanceGroup {
            name: view.name.to_string(),
            kind: i32::from(kind),
            count: 1,
            ..ModelInstanceGroup::default()
        }],
        default_model_filename: "model.onnx".to_owned(),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        // Its presence is what tells a client that requests share batches.
        scheduling_choice: batches.then_some(SchedulingChoice::DynamicBatching(batching)),
        ..ModelConfig::default()
    }
}

fn label_file(view: &ModelView, spec: &TensorSpec) -> String {
    let classify = view.config.classify.as_ref().filter(|classify| classify.output == spec.name);
    let labels = classify.and_then(|classify| classify.labels.as_ref());
    labels.map(|path| path.display().to_string()).unwrap_or_default()
}

fn data_type(datatype: DataType) -> triton::DataType {
    match datatype {
        DataType::Bool => triton::DataType::TypeBool,
        DataType::Uint8 => triton::DataType::TypeUint8,
        DataType::Uint16 => triton::DataType::TypeUint16,
        DataType::Uint32 => triton::DataType::TypeUint32,
        DataType::Uint64 => triton::DataType::TypeUint64,
        DataType::Int8 => triton::DataType::TypeInt8,
        DataType::Int16 => triton::DataType::TypeInt16,
        DataType::Int32 => triton::DataType::TypeInt32,
        DataType::Int64 => triton::DataType::TypeInt64,
        DataType::Fp16 => triton::DataType::TypeFp16,
        DataType::Bf16 => triton::DataType::TypeBf16,
        DataType::Fp32 => triton::DataType::TypeFp32,
        DataType::Fp64 => triton::DataType::TypeFp64,
        DataType::Bytes => triton::DataType::TypeString,
    }
}

/// The statistics of all models, of one, or of one version.
///
/// # Errors
/// A model that is known and has no statistics yet is an empty list; an unknown one is `UnknownModel`.
pub(crate) fn statistics(
    serve: &Serve,
    model: Option<&str>,
    version: Option<u64>,
) -> Result<ModelStatisticsResponse, Error> {
    let model_stats: Vec<_> = serve
        .stats()
        .iter()
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

/// A state that Triton has no word for is given as the nearest one that its clients know, with the reason beside
/// it: BUILDING serves, so it is READY.
pub(crate) fn index(serve: &Serve, serving_only: bool) -> RepositoryIndexResponse {
    let entries = serve.index().into_iter().filter(|entry| !serving_only || entry.state.is_serving());
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

/// Loading and unloading, where it is allowed: models come from the repository on disk only.
///
/// # Errors
/// `Refused` where it is not allowed, `Unsupported` for a model in the request itself.
pub(crate) fn repository_control<'a>(
    allowed: bool,
    parameters: impl IntoIterator<Item = &'a String>,
) -> Result<(), Error> {
    if !allowed {
        let text = "loading and unloading is not allowed on this port; use the control socket, or set \
                    allow_repository_control = true";
        return Err(Error::new(ErrorCode::Refused, text));
    }
    for key in parameters {
        // There are no dependent models here, so `unload_dependents` has nothing to change.
        if key == "config" || key.starts_with("file:") {
            let text = format!("parameter '{key}' is not served: models are loaded from the repository only");
            return Err(Error::new(ErrorCode::Unsupported, text));
        }
    }
    Ok(())
}
