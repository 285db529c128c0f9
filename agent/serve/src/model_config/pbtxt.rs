//! Triton's `config.pbtxt`, put into Mast's words. `fields.rs` says what becomes of each of its fields.

mod batching;
mod sequence;
mod tensors;

use std::collections::{BTreeMap, BTreeSet};

use engine::Provider;
use triton::model_config::SchedulingChoice;
use triton::model_instance_group::Kind;
use triton::model_version_policy::PolicyChoice;

use super::fields::{self, Treatment};
use super::{MAX_INSTANCES, ModelConfig, Source, VersionPolicy};

/// What both files would say: the key of `model.toml` by the field of `config.pbtxt` that means the same.
type Claims = BTreeMap<&'static str, &'static str>;

/// Puts a `config.pbtxt` over what `model.toml` says, whose keys are `keys`. The error names the field.
pub(super) fn apply(
    config: &mut ModelConfig,
    keys: &BTreeSet<String>,
    model: &str,
    written: triton::ModelConfig,
) -> Result<(), String> {
    for path in triton::config::set_fields(&written) {
        match fields::treatment(&path) {
            Some((_, Treatment::Honoured, _)) => {}
            // The message it is in has been named.
            Some((entry, Treatment::Warned, why)) if entry == path => {
                config.warnings.push(format!("{path} is not honoured: {why}"));
            }
            Some((_, Treatment::Warned, _)) => {}
            Some((_, Treatment::Refused, why)) => return Err(format!("{path} is not supported: {why}")),
            None => return Err(format!("{path} is not supported")),
        }
    }
    check_identity(&written, model)?;

    let mut claims = Claims::new();
    config.source = if keys.is_empty() { Source::Triton } else { Source::Both };
    config.completes = written.input.is_empty() || written.output.is_empty();
    config.dynamic_batching =
        config.completes || matches!(written.scheduling_choice, Some(SchedulingChoice::DynamicBatching(_)));
    if written.max_batch_size != 0 {
        claims.insert("max_batch_size", "max_batch_size");
        config.max_batch_size = count("max_batch_size", written.max_batch_size)?;
    }
    if !written.default_model_filename.is_empty() {
        config.model_filename =
            Some(super::file_name("default_model_filename", &written.default_model_filename)?);
    }
    if let Some(policy) = written.version_policy.and_then(|policy| policy.policy_choice) {
        claims.insert("versions", "version_policy");
        config.version_policy = version_policy(policy)?;
    }
    config.inputs = written.input.iter().map(tensors::input).collect::<Result<_, _>>()?;
    config.outputs = written.output.iter().map(tensors::output).collect::<Result<_, _>>()?;
    config.warmup_samples = written.model_warmup.iter().map(tensors::warmup).collect::<Result<_, _>>()?;
    if !config.warmup_samples.is_empty() {
        claims.insert("warmup", "model_warmup");
    }
    match written.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(batching)) => {
            batching::apply(config, &mut claims, &batching)?;
        }
        Some(SchedulingChoice::SequenceBatching(batching)) => {
            sequence::apply(config, &mut claims, &batching)?;
        }
        // Refused by the table.
        Some(SchedulingChoice::EnsembleScheduling(_)) | None => {}
    }
    let accelerators = written.optimization.and_then(|it| it.execution_accelerators).unwrap_or_default();
    instances(config, &mut claims, &written.instance_group, &accelerators.gpu_execution_accelerator)?;
    parameters(config, &mut claims, &written.parameters)?;

    for (key, field) in claims {
        if keys.contains(key) {
            return Err(format!("{field} and {key} in model.toml say the same thing: keep one of them"));
        }
    }
    Ok(())
}

fn check_identity(written: &triton::ModelConfig, model: &str) -> Result<(), String> {
    let triton::ModelConfig { name, platform, backend, .. } = written;
    if !name.is_empty() && name != model {
        return Err(format!("name is '{name}', but the folder is '{model}'"));
    }
    if !platform.is_empty() && platform != "onnxruntime_onnx" {
        return Err(format!("platform '{platform}' is not supported: only onnxruntime_onnx is"));
    }
    if !backend.is_empty() && backend != "onnxruntime" {
        return Err(format!("backend '{backend}' is not supported: only onnxruntime is"));
    }
    Ok(())
}

fn version_policy(policy: PolicyChoice) -> Result<VersionPolicy, String> {
    let policy = match policy {
        PolicyChoice::All(_) => VersionPolicy::All,
        // Triton's own default.
        PolicyChoice::Latest(latest) if latest.num_versions == 0 => VersionPolicy::Latest(1),
        PolicyChoice::Latest(latest) => {
            VersionPolicy::Latest(usize::try_from(latest.num_versions).unwrap_or(usize::MAX))
        }
        PolicyChoice::Specific(specific) => {
            let number = |version: &i64| {
                u64::try_from(*version).map_err(|_| format!("version_policy names version {version}"))
            };
            VersionPolicy::Specific(specific.versions.iter().map(number).collect::<Result<_, _>>()?)
        }
    };
    Ok(policy)
}

/// Where the model runs and how often. Triton gives every group its own devices; here all instances of a model
/// have one order of providers.
fn instances(
    config: &mut ModelConfig,
    claims: &mut Claims,
    groups: &[triton::ModelInstanceGroup],
    accelerators: &[triton::model_optimization_policy::execution_accelerators::Accelerator],
) -> Result<(), String> {
    let mut tensorrt = false;
    for accelerator in accelerators {
        match accelerator.name.as_str() {
            "tensorrt" => tensorrt = true,
            "cuda" => {}
            other => {
                return Err(format!(
                    "gpu_execution_accelerator '{other}' is not supported: tensorrt or cuda"
                ));
            }
        }
        for (key, value) in &accelerator.parameters {
            if key == "gpu_mem_limit" && accelerator.name == "cuda" {
                config.device_memory_limit_bytes = Some(number(key, value)?);
                claims.insert("device_memory_limit_bytes", "gpu_mem_limit");
            } else {
                let name = &accelerator.name;
                config.warnings.push(format!("parameter '{key}' of the accelerator {name} is not honoured"));
            }
        }
    }

    let (mut on_gpu, mut on_cpu, mut total) = (false, false, 0_usize);
    for group in groups {
        match Kind::try_from(group.kind) {
            Ok(Kind::Gpu) => on_gpu = true,
            Ok(Kind::Cpu) => on_cpu = true,
            Ok(Kind::Auto) => (on_gpu, on_cpu) = (true, true),
            Ok(Kind::Model) => return Err("instance_group.kind KIND_MODEL is not supported".to_owned()),
            Err(_) => return Err(format!("instance_group.kind {} is none of Triton's", group.kind)),
        }
        if on_cpu && !on_gpu && !group.gpus.is_empty() {
            return Err("instance_group.gpus with KIND_CPU".to_owned());
        }
        for gpu in &group.gpus {
            let gpu = u32::try_from(*gpu).map_err(|_| format!("instance_group.gpus names {gpu}"))?;
            if !config.gpus.contains(&gpu) {
                config.gpus.push(gpu);
            }
        }
        let each = if group.count == 0 { 1 } else { count("instance_group.count", group.count)? };
        total = total.saturating_add(each.saturating_mul(group.gpus.len().max(1)));
    }
    if total > MAX_INSTANCES {
        return Err(format!("instance_group adds up to {total} instances: at most {MAX_INSTANCES}"));
    }
    if total > 0 {
        claims.insert("instances", "instance_group");
        config.instances = total;
    }
    if groups.iter().any(|group| group.kind == i32::from(Kind::Gpu)) && groups.len() > 1 && on_cpu {
        let text = "instance_group: all instances run on the same provider, the GPU's where it can be used";
        config.warnings.push(text.to_owned());
    }
    if on_cpu && !on_gpu && tensorrt {
        config
            .warnings
            .push("gpu_execution_accelerator is not honoured: the instances are KIND_CPU".to_owned());
    }
    // Without a group and an accelerator the order is the agent's own.
    if groups.is_empty() && accelerators.is_empty() {
        return Ok(());
    }
    claims.insert(
        "providers",
        if groups.is_empty() { "execution_accelerators" } else { "instance_group.kind" },
    );
    let gpu = on_gpu || groups.is_empty();
    let mut providers = Vec::new();
    if gpu {
        if tensorrt {
            providers.push(Provider::TensorRt);
        }
        providers.extend([Provider::Cuda, Provider::Wgpu]);
    }
    // KIND_GPU alone fails where there is no GPU, as in Triton, and does not fall back in silence.
    if on_cpu || groups.is_empty() {
        providers.push(Provider::Cpu);
    }
    config.providers = providers;
    Ok(())
}

fn parameters(
    config: &mut ModelConfig,
    claims: &mut Claims,
    written: &std::collections::HashMap<String, triton::ModelParameter>,
) -> Result<(), String> {
    let written: BTreeMap<_, _> = written.iter().collect();
    for (key, parameter) in written {
        let value = &parameter.string_value;
        let known = fields::PARAMETERS.iter().find(|(known, _, _)| known == key);
        match (key.as_str(), known) {
            ("intra_op_thread_count", _) => {
                claims.insert("threads", "parameters.intra_op_thread_count");
                config.threads = usize::try_from(number(key, value)?).unwrap_or(usize::MAX);
            }
            ("gpu_mem_limit", _) => {
                claims.insert("device_memory_limit_bytes", "parameters.gpu_mem_limit");
                config.device_memory_limit_bytes = Some(number(key, value)?);
            }
            // As it is anyway.
            ("execution_mode", _) if value == "0" => {}
            (_, Some((_, _, why))) => {
                config.warnings.push(format!("parameter '{key}' is not honoured: {why}"));
            }
            (_, None) => config.warnings.push(format!("parameter '{key}' is not honoured: nothing reads it")),
        }
    }
    Ok(())
}

fn number(key: &str, value: &str) -> Result<u64, String> {
    value.trim().parse().map_err(|_| format!("parameter '{key}' is no number"))
}

/// A number that Triton signs and that must not be negative.
fn count(field: &str, value: impl TryInto<usize> + Copy + std::fmt::Display) -> Result<usize, String> {
    value.try_into().map_err(|_| format!("{field} is {value}"))
}
