//! Triton's ModelConfig of a model that serves: what is in force, wherever it was written.

use engine::{DataType, Provider, TensorSpec};
use serve::{
    ControlConfig, ControlKind, Flag, ModelConfig as Asked, ModelView, PriorityConfig, QueuePolicy,
    SequenceConfig, StateConfig, TimeoutAction, VersionPolicy,
};
use triton::model_config::SchedulingChoice;
use triton::model_sequence_batching::control::Kind as Control;
use triton::model_sequence_batching::{ControlInput, State, StrategyChoice, StrategyOldest};
use triton::model_version_policy::{All, Latest, PolicyChoice, Specific};
use triton::{
    ModelConfig, ModelDynamicBatching, ModelInput, ModelInstanceGroup, ModelOutput, ModelQueuePolicy,
    ModelSequenceBatching, ModelTransactionPolicy, ModelVersionPolicy, model_instance_group,
    model_queue_policy, model_sequence_batching,
};

use super::PLATFORM;

pub(crate) fn config(view: &ModelView) -> ModelConfig {
    let asked = &*view.config;
    let batches = asked.max_batch_size > 0;
    let dims = |spec: &TensorSpec| spec.wire_shape().into_iter().skip(usize::from(batches)).collect();
    let input = |spec: &TensorSpec| ModelInput {
        name: spec.name.clone(),
        data_type: data_type(spec.datatype),
        dims: dims(spec),
        ..ModelInput::default()
    };
    let output = |spec: &TensorSpec| ModelOutput {
        name: spec.name.clone(),
        data_type: data_type(spec.datatype),
        dims: dims(spec),
        label_filename: asked.labels(&spec.name).map(|path| path.display().to_string()).unwrap_or_default(),
        ..ModelOutput::default()
    };
    let kind = match view.placement.provider {
        Provider::Cpu => model_instance_group::Kind::Cpu,
        _ => model_instance_group::Kind::Gpu,
    };
    ModelConfig {
        name: view.name.to_string(),
        platform: PLATFORM.to_owned(),
        backend: "onnxruntime".to_owned(),
        version_policy: Some(version_policy(&asked.version_policy)),
        max_batch_size: int(asked.max_batch_size),
        input: view.signature.inputs.iter().map(input).collect(),
        output: view.signature.outputs.iter().map(output).collect(),
        instance_group: vec![ModelInstanceGroup {
            name: view.name.to_string(),
            kind: i32::from(kind),
            count: int(asked.instances),
            ..ModelInstanceGroup::default()
        }],
        default_model_filename: asked.model_filename.clone().unwrap_or_else(|| "model.onnx".to_owned()),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        scheduling_choice: scheduling(asked),
        ..ModelConfig::default()
    }
}

/// Its presence is what tells a client that requests share batches, or belong to sequences.
fn scheduling(asked: &Asked) -> Option<SchedulingChoice> {
    if let Some(sequence) = &asked.sequence {
        return Some(SchedulingChoice::SequenceBatching(sequence_batching(asked, sequence)));
    }
    let batches = asked.max_batch_size > 0 && asked.dynamic_batching;
    batches.then(|| SchedulingChoice::DynamicBatching(dynamic_batching(asked)))
}

fn version_policy(policy: &VersionPolicy) -> ModelVersionPolicy {
    let choice = match policy {
        VersionPolicy::Latest(count) => {
            PolicyChoice::Latest(Latest { num_versions: u32::try_from(*count).unwrap_or(u32::MAX) })
        }
        VersionPolicy::All => PolicyChoice::All(All {}),
        VersionPolicy::Specific(versions) => {
            let versions = versions.iter().map(|version| i64::try_from(*version).unwrap_or(i64::MAX));
            PolicyChoice::Specific(Specific { versions: versions.collect() })
        }
    };
    ModelVersionPolicy { policy_choice: Some(choice) }
}

fn dynamic_batching(asked: &Asked) -> ModelDynamicBatching {
    let PriorityConfig { levels, default_level, default_queue, queues } = &asked.priority;
    let queues = queues.iter().map(|(level, policy)| (u64::from(*level), queue_policy(policy)));
    ModelDynamicBatching {
        preferred_batch_size: asked.preferred_batch_sizes.iter().copied().map(int).collect(),
        max_queue_delay_microseconds: asked.batch_delay_us,
        preserve_ordering: asked.preserve_ordering,
        priority_levels: u64::from(*levels),
        default_priority_level: u64::from(*default_level),
        default_queue_policy: (*default_queue != QueuePolicy::default()).then(|| queue_policy(default_queue)),
        priority_queue_policy: queues.collect(),
    }
}

fn queue_policy(policy: &QueuePolicy) -> ModelQueuePolicy {
    let action = match policy.timeout_action {
        TimeoutAction::Reject => model_queue_policy::TimeoutAction::Reject,
        TimeoutAction::Delay => model_queue_policy::TimeoutAction::Delay,
    };
    ModelQueuePolicy {
        timeout_action: i32::from(action),
        default_timeout_microseconds: policy.default_timeout_us,
        allow_timeout_override: policy.allow_timeout_override,
        max_queue_size: u32::try_from(policy.max_queue_size.unwrap_or(0)).unwrap_or(u32::MAX),
    }
}

/// Any free instance takes the next step of a sequence, so this is Triton's strategy "oldest", whichever was written.
fn sequence_batching(asked: &Asked, sequence: &SequenceConfig) -> ModelSequenceBatching {
    let oldest = StrategyOldest {
        max_candidate_sequences: int(sequence.max_sequences),
        preferred_batch_size: asked.preferred_batch_sizes.iter().copied().map(int).collect(),
        max_queue_delay_microseconds: asked.batch_delay_us,
        preserve_ordering: asked.preserve_ordering,
    };
    let batches = asked.max_batch_size > 0;
    ModelSequenceBatching {
        max_sequence_idle_microseconds: sequence.max_idle_us,
        control_input: sequence.controls.iter().map(control).collect(),
        state: sequence.state.iter().map(|it| state(it, batches)).collect(),
        strategy_choice: Some(StrategyChoice::Oldest(oldest)),
        ..ModelSequenceBatching::default()
    }
}

fn control(asked: &ControlConfig) -> ControlInput {
    let kind = match asked.kind {
        ControlKind::Start => Control::ControlSequenceStart,
        ControlKind::End => Control::ControlSequenceEnd,
        ControlKind::Ready => Control::ControlSequenceReady,
        ControlKind::CorrelationId => Control::ControlSequenceCorrid,
    };
    let mut control = model_sequence_batching::Control { kind: i32::from(kind), ..Default::default() };
    match asked.false_true {
        Some(Flag::Fp32(values)) => control.fp32_false_true = values.to_vec(),
        Some(Flag::Int32(values)) => control.int32_false_true = values.to_vec(),
        Some(Flag::Bool(values)) => control.bool_false_true = values.to_vec(),
        None => {}
    }
    ControlInput { name: asked.input.clone(), control: vec![control] }
}

/// The type is the model's own, which a state of `model.toml` does not repeat.
fn state(asked: &StateConfig, batches: bool) -> State {
    let shape = asked.shape.iter().flatten().skip(usize::from(batches));
    State {
        input_name: asked.input.clone(),
        output_name: asked.output.clone(),
        dims: shape.map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
        ..State::default()
    }
}

fn int(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn data_type(datatype: DataType) -> i32 {
    let datatype = match datatype {
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
    };
    i32::from(datatype)
}
