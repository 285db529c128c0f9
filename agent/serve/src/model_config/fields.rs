//! What becomes of every field of Triton's model configuration.
//!
//! A field is honoured, or the model's warnings name it, or the load fails and names it: never is one ignored in
//! silence. A message that is warned about or refused stands for all that is in it.

/// What becomes of a field that somebody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    Honoured,
    /// The model serves without it, and says so.
    Warned,
    /// The model would not be what its owner asked for: it does not load.
    Refused,
}

use Treatment::{Honoured, Refused, Warned};

/// Path, treatment, and how or why.
pub(crate) const FIELDS: &[(&str, Treatment, &str)] = &[
    ("name", Honoured, "must be the folder's name"),
    ("platform", Honoured, "`onnxruntime_onnx`; every other one is refused"),
    ("backend", Honoured, "`onnxruntime`; every other one is refused"),
    ("runtime", Warned, "the agent brings its own ONNX Runtime"),
    ("version_policy", Honoured, "without it, the newest version"),
    ("version_policy.latest", Honoured, ""),
    ("version_policy.latest.num_versions", Honoured, ""),
    ("version_policy.all", Honoured, ""),
    ("version_policy.specific", Honoured, ""),
    ("version_policy.specific.versions", Honoured, "one that is not there is a reason in the index"),
    ("max_batch_size", Honoured, "completed where inputs or outputs are left out (below)"),
    ("input", Honoured, "held against the model"),
    ("input.name", Honoured, ""),
    ("input.data_type", Honoured, ""),
    ("input.format", Warned, "a word for clients; pixels are taken as they come"),
    ("input.dims", Honoured, "may be narrower than the model's"),
    ("input.reshape", Honoured, ""),
    ("input.reshape.shape", Honoured, ""),
    ("input.is_shape_tensor", Refused, "TensorRT plans only"),
    ("input.allow_ragged_batch", Refused, "requests of a batch have one shape"),
    ("input.optional", Refused, "ONNX Runtime needs every input"),
    ("input.is_non_linear_format_io", Refused, "TensorRT plans only"),
    ("output", Honoured, "one that is left out is served all the same, with a warning"),
    ("output.name", Honoured, ""),
    ("output.data_type", Honoured, ""),
    ("output.dims", Honoured, ""),
    ("output.reshape", Honoured, ""),
    ("output.reshape.shape", Honoured, ""),
    ("output.label_filename", Honoured, "in the model's folder"),
    ("output.is_shape_tensor", Refused, "TensorRT plans only"),
    ("output.is_non_linear_format_io", Refused, "TensorRT plans only"),
    ("batch_input", Refused, "it goes with ragged batches"),
    ("batch_output", Refused, "it goes with ragged batches"),
    ("optimization", Honoured, ""),
    ("optimization.graph", Warned, "graphs are always optimised in full"),
    ("optimization.priority", Warned, "models have equal rights to a device"),
    ("optimization.cuda", Warned, "no CUDA graphs"),
    ("optimization.execution_accelerators", Honoured, "they become the order of providers"),
    ("optimization.execution_accelerators.gpu_execution_accelerator", Honoured, ""),
    (
        "optimization.execution_accelerators.gpu_execution_accelerator.name",
        Honoured,
        "`tensorrt` or `cuda`; every other one is refused",
    ),
    (
        "optimization.execution_accelerators.gpu_execution_accelerator.parameters",
        Honoured,
        "`gpu_mem_limit` of `cuda`; every other one is named in a warning",
    ),
    (
        "optimization.execution_accelerators.cpu_execution_accelerator",
        Warned,
        "no OpenVINO: ONNX Runtime's own CPU kernels",
    ),
    ("optimization.input_pinned_memory", Warned, "the backend chooses where its inputs lie"),
    ("optimization.output_pinned_memory", Warned, "the backend chooses where its outputs lie"),
    ("optimization.gather_kernel_buffer_threshold", Warned, "inputs are gathered on the CPU"),
    ("optimization.eager_batching", Warned, "a batch is formed when an instance is free"),
    ("dynamic_batching", Honoured, "completed where inputs or outputs are left out (below)"),
    ("dynamic_batching.preferred_batch_size", Honoured, ""),
    ("dynamic_batching.max_queue_delay_microseconds", Honoured, ""),
    ("dynamic_batching.preserve_ordering", Honoured, ""),
    ("dynamic_batching.priority_levels", Honoured, "at most 64"),
    ("dynamic_batching.default_priority_level", Honoured, ""),
    ("dynamic_batching.default_queue_policy", Honoured, ""),
    ("dynamic_batching.default_queue_policy.timeout_action", Honoured, ""),
    ("dynamic_batching.default_queue_policy.default_timeout_microseconds", Honoured, ""),
    ("dynamic_batching.default_queue_policy.allow_timeout_override", Honoured, ""),
    ("dynamic_batching.default_queue_policy.max_queue_size", Honoured, "beside the limit of the agent"),
    ("dynamic_batching.priority_queue_policy", Honoured, ""),
    ("dynamic_batching.priority_queue_policy.timeout_action", Honoured, ""),
    ("dynamic_batching.priority_queue_policy.default_timeout_microseconds", Honoured, ""),
    ("dynamic_batching.priority_queue_policy.allow_timeout_override", Honoured, ""),
    ("dynamic_batching.priority_queue_policy.max_queue_size", Honoured, ""),
    ("sequence_batching", Honoured, ""),
    ("sequence_batching.direct", Honoured, "any free instance takes the next step: states are shared"),
    ("sequence_batching.direct.max_queue_delay_microseconds", Honoured, ""),
    ("sequence_batching.direct.minimum_slot_utilization", Warned, "there are no slots"),
    ("sequence_batching.oldest", Honoured, "any free instance takes the next step: states are shared"),
    ("sequence_batching.oldest.max_candidate_sequences", Honoured, "more at a time are refused"),
    ("sequence_batching.oldest.preferred_batch_size", Honoured, ""),
    ("sequence_batching.oldest.max_queue_delay_microseconds", Honoured, ""),
    ("sequence_batching.oldest.preserve_ordering", Honoured, ""),
    ("sequence_batching.max_sequence_idle_microseconds", Honoured, "without it, one second"),
    ("sequence_batching.control_input", Honoured, ""),
    ("sequence_batching.control_input.name", Honoured, ""),
    ("sequence_batching.control_input.control", Honoured, ""),
    ("sequence_batching.control_input.control.kind", Honoured, ""),
    ("sequence_batching.control_input.control.int32_false_true", Honoured, ""),
    ("sequence_batching.control_input.control.fp32_false_true", Honoured, ""),
    ("sequence_batching.control_input.control.bool_false_true", Honoured, ""),
    ("sequence_batching.control_input.control.data_type", Honoured, "of the id; the model's own type counts"),
    ("sequence_batching.state", Honoured, ""),
    ("sequence_batching.state.input_name", Honoured, ""),
    ("sequence_batching.state.output_name", Honoured, ""),
    ("sequence_batching.state.data_type", Honoured, "held against the model"),
    ("sequence_batching.state.dims", Honoured, "without the batch axis; -1 is 1"),
    ("sequence_batching.state.initial_state", Honoured, ""),
    ("sequence_batching.state.initial_state.data_type", Honoured, "must be the state's"),
    ("sequence_batching.state.initial_state.dims", Honoured, "the shape of the zeros"),
    ("sequence_batching.state.initial_state.zero_data", Honoured, ""),
    ("sequence_batching.state.initial_state.data_file", Refused, "a sequence starts with zeros"),
    ("sequence_batching.state.initial_state.name", Honoured, "a word for people"),
    ("sequence_batching.state.use_same_buffer_for_input_output", Warned, "states are copied"),
    ("sequence_batching.state.use_growable_memory", Warned, "states are copied"),
    ("sequence_batching.iterative_sequence", Refused, "a request is one step"),
    ("ensemble_scheduling", Refused, "no ensembles"),
    ("instance_group", Honoured, "several add up"),
    ("instance_group.name", Honoured, "a word for people"),
    ("instance_group.kind", Honoured, "becomes the order of providers; KIND_MODEL is refused"),
    ("instance_group.count", Honoured, "without it, one (Triton: two on the CPU)"),
    ("instance_group.rate_limiter", Warned, "an instance runs when it is free"),
    ("instance_group.gpus", Honoured, "one that is not there is refused"),
    ("instance_group.secondary_devices", Refused, "no NVDLA"),
    ("instance_group.profile", Warned, "TensorRT plans only"),
    ("instance_group.passive", Refused, "every instance serves"),
    ("instance_group.host_policy", Warned, "threads are not bound to cores"),
    ("default_model_filename", Honoured, "a file or, with external data, a folder"),
    ("cc_model_filenames", Refused, "one file for every GPU: default_model_filename"),
    ("metric_tags", Warned, "metrics carry model and version"),
    ("parameters", Honoured, "by key, below; one that is not there is named in a warning"),
    ("parameters.string_value", Honoured, ""),
    ("model_warmup", Honoured, "beside one run with zeros"),
    ("model_warmup.name", Honoured, "in the error of a run that fails"),
    ("model_warmup.batch_size", Honoured, ""),
    ("model_warmup.inputs", Honoured, ""),
    ("model_warmup.inputs.data_type", Honoured, "held against the model"),
    ("model_warmup.inputs.dims", Honoured, ""),
    ("model_warmup.inputs.zero_data", Honoured, ""),
    ("model_warmup.inputs.random_data", Honoured, "the same for every load"),
    ("model_warmup.inputs.input_data_file", Honoured, "in `warmup/` of the model's folder"),
    ("model_warmup.count", Honoured, "without it, one"),
    ("model_operations", Refused, "no code of others in this process"),
    ("model_transaction_policy", Honoured, ""),
    ("model_transaction_policy.decoupled", Refused, "a request has one reply"),
    ("model_repository_agents", Refused, "files are taken as they lie"),
    ("response_cache", Honoured, ""),
    ("response_cache.enable", Warned, "every request runs"),
    ("model_metrics", Warned, "the buckets of metrics are the agent's"),
];

/// Keys of `parameters` that the ONNX Runtime backend of Triton knows.
pub(crate) const PARAMETERS: &[(&str, Treatment, &str)] = &[
    ("intra_op_thread_count", Honoured, "threads inside one operator"),
    ("gpu_mem_limit", Honoured, "bytes of the CUDA arena"),
    ("execution_mode", Warned, "operators run one after the other"),
    ("inter_op_thread_count", Warned, "operators run one after the other"),
    ("enable_mem_arena", Warned, "the backend chooses"),
    ("enable_mem_pattern", Warned, "the backend chooses"),
    ("memory.enable_memory_arena_shrinkage", Warned, "unload gives memory back"),
    ("session.use_device_allocator_for_initializers", Warned, "the backend chooses"),
    ("cudnn_conv_algo_search", Warned, "the backend chooses"),
    ("arena_extend_strategy", Warned, "the backend chooses"),
];

/// What becomes of the field at `path`: its own entry, or that of the message it is in.
pub(crate) fn treatment(path: &str) -> Option<(&'static str, Treatment, &'static str)> {
    let mut at = path;
    loop {
        if let Some(entry) = FIELDS.iter().find(|(known, _, _)| *known == at) {
            // A message that is honoured says nothing of fields that have no entry.
            return (at == path || entry.1 != Honoured).then_some(*entry);
        }
        at = at.rsplit_once('.')?.0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_field_of_triton_has_an_entry_and_every_entry_a_field() {
        let fields = triton::config::fields();
        for field in &fields {
            assert!(treatment(&field.path).is_some(), "{} would be ignored in silence", field.path);
        }
        let mut seen = HashSet::new();
        for (path, treatment, why) in FIELDS {
            assert!(fields.iter().any(|field| field.path == *path), "Triton has no {path}");
            assert!(seen.insert(path), "{path} is there twice");
            assert!(*treatment == Honoured || !why.is_empty(), "{path} needs a reason");
        }
    }

    /// `docs/specs/repository.md` is made of the table: `MAST_WRITE_DOCS=1` writes it.
    #[test]
    fn the_document_has_the_table() {
        let mut table = String::new();
        for (title, rows) in [("field", FIELDS), ("`parameters` key", PARAMETERS)] {
            table += &format!("| {title} | | |\n|---|---|---|\n");
            for (path, treatment, why) in rows {
                table += &format!("| `{path}` | {} | {why} |\n", format!("{treatment:?}").to_lowercase());
            }
            table.push('\n');
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/specs/repository.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- table -->\n", "<!-- end of table -->");
        let (before, rest) = text.split_once(begin).unwrap();
        let (written, after) = rest.split_once(end).unwrap();
        if std::env::var_os("MAST_WRITE_DOCS").is_some() {
            use std::io::Write as _;
            let whole = format!("{before}{begin}{table}{end}{after}");
            std::fs::File::create(path).unwrap().write_all(whole.as_bytes()).unwrap();
        } else {
            assert_eq!(written, table, "MAST_WRITE_DOCS=1 writes the table anew");
        }
    }
}
