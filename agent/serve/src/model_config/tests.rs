use super::*;

#[test]
fn an_error_names_the_key_and_the_line() {
    let check = |text: &str, expected: &[&str]| {
        let error = ModelConfig::parse(text).unwrap_err().to_string();
        for part in expected {
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
    };
    check("threads = 1\nmax_batchsize = 4\n", &["max_batchsize", "line 2"]);
    check("providers = [\"rocm\"]", &["rocm", "line 1", "tensorrt, cuda, wgpu or cpu"]);
    check("require = \"gpu\"", &["gpu", "line 1"]);
    check("providers = []", &["providers"]);
    check("queue_limit = 0", &["queue_limit"]);
    check("threads = 100000", &["threads", "at most 1024"]);
    check("\n[image]\ninput = \"x\"\nwidth = 1\nheight = 1\nbgr = true", &["bgr", "line 6"]);
}

#[test]
fn the_example_of_the_module_doc_is_valid() {
    let doc: String = include_str!("../model_config.rs")
        .lines()
        .skip_while(|line| !line.contains("```toml"))
        .skip(1)
        .take_while(|line| !line.contains("```"))
        .map(|line| format!("{}\n", line.trim_start_matches("//!")))
        .collect();
    let config = ModelConfig::parse(&doc).unwrap();
    assert_eq!((config.max_batch_size, config.detect.unwrap().strides.len()), (8, 3));
    let empty = ModelConfig { source: Source::Mast, ..ModelConfig::default() };
    assert_eq!(ModelConfig::parse("").unwrap(), empty);
}

/// In the shape of the examples of Triton's documentation.
const PBTXT: &str = r#"
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] }, { name: "ids" data_type: TYPE_STRING dims: [ 1 ] reshape: { shape: [ ] } } ]
output [ { name: "y" data_type: TYPE_INT64 dims: [ 10 ] label_filename: "labels.txt" } ]
version_policy: { specific { versions: [ 1, 3 ] } }
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { max_queue_size: 16 }
  priority_queue_policy [
    { key: 1 value: { timeout_action: DELAY default_timeout_microseconds: 9 allow_timeout_override: true } }
  ]
}
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "3" } }
parameters { key: "execution_mode" value: { string_value: "0" } }
model_warmup [ {
  name: "one" batch_size: 2 count: 3
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 5 ] random_data: true } }
  inputs { key: "ids" value: { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "ids" } }
} ]
"#;

fn read(pbtxt: &str) -> Result<ModelConfig, Error> {
    ModelConfig::read("m", None, Some(Pbtxt::Text(pbtxt)))
}

#[test]
fn tritons_words_become_ours() {
    let config = read(PBTXT).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!((config.max_batch_size, config.batch_delay_us, config.threads), (8, 100, 3));
    assert_eq!((config.instances, &config.preferred_batch_sizes), (3, &vec![4, 8]));
    assert_eq!(config.providers, [Provider::Cpu]);
    assert_eq!(config.version_policy, VersionPolicy::Specific(vec![1, 3]));
    assert_eq!((config.source, config.completes, config.dynamic_batching), (Source::Triton, false, true));
    let [x, ids] = &config.inputs[..] else { panic!("two inputs") };
    assert_eq!(x.dims, [Some(3), None]);
    assert_eq!((ids.datatype, ids.reshape.as_deref()), (engine::DataType::Bytes, Some([].as_slice())));
    assert_eq!(config.labels("y"), Some(Path::new("labels.txt")));
    let PriorityConfig { levels, default_level, default_queue, queues } = &config.priority;
    assert_eq!((*levels, *default_level, default_queue.max_queue_size), (3, 2, Some(16)));
    let first =
        QueuePolicy { default_timeout_us: 9, timeout_action: TimeoutAction::Delay, ..QueuePolicy::default() };
    assert_eq!(queues[&1], first);
    let sample = &config.warmup_samples[0];
    assert_eq!(
        (sample.count, sample.batch_size, sample.inputs["x"].dims.as_slice()),
        (3, 2, [3, 5].as_slice())
    );
    assert_eq!(sample.inputs["ids"].data, WarmupData::File("ids".into()));
}

#[test]
fn sequences_are_read() {
    let config = read(
        r#"max_batch_size: 4
        input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }
        sequence_batching {
          max_sequence_idle_microseconds: 7000000
          oldest { max_candidate_sequences: 4 preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 50 }
          control_input [
            { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
            { name: "ID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
          ]
          state [ { input_name: "h" output_name: "hn" data_type: TYPE_FP32 dims: [ -1, 8 ]
            initial_state: { data_type: TYPE_FP32 dims: [ 2, 8 ] zero_data: true name: "zeros" } } ]
        }"#,
    )
    .unwrap();
    let sequence = config.sequence.unwrap();
    assert_eq!((sequence.max_idle_us, sequence.max_sequences), (7_000_000, 4));
    assert_eq!(sequence.controls[0].false_true, Some(Flag::Fp32([0.0, 1.0])));
    assert_eq!(sequence.controls[1].kind, ControlKind::CorrelationId);
    assert_eq!(sequence.state[0].shape, Some(vec![1, 2, 8]));
    assert_eq!(config.batch_delay_us, 50);
}

#[test]
fn the_order_of_providers_follows_kinds_and_accelerators() {
    use Provider::{Cpu, Cuda, TensorRt, Wgpu};
    let trt =
        "optimization { execution_accelerators { gpu_execution_accelerator [ { name: \"tensorrt\" } ] } }";
    let check = |text: &str, expected: &[Provider], warnings: usize| {
        let config = read(text).unwrap();
        assert_eq!((config.providers.as_slice(), config.warnings.len()), (expected, warnings), "{text}");
    };
    check("", &LoadOptions::default().providers, 0);
    check("instance_group { kind: KIND_CPU }", &[Cpu], 0);
    check("instance_group { kind: KIND_GPU }", &[Cuda, Wgpu], 0);
    check("instance_group { count: 1 }", &[Cuda, Wgpu, Cpu], 0);
    check(trt, &[TensorRt, Cuda, Wgpu, Cpu], 0);
    check(
        &format!("instance_group {{ kind: KIND_GPU gpus: [0, 1] count: 2 }} {trt}"),
        &[TensorRt, Cuda, Wgpu],
        0,
    );
    check(&format!("instance_group {{ kind: KIND_CPU }} {trt}"), &[Cpu], 1);
    check("instance_group [ { kind: KIND_GPU }, { kind: KIND_CPU } ]", &[Cuda, Wgpu, Cpu], 1);
    let config = read("instance_group { kind: KIND_GPU gpus: [0, 1] count: 2 }").unwrap();
    assert_eq!((config.instances, config.gpus), (4, vec![0, 1]));
}

#[test]
fn what_is_not_honoured_is_named() {
    let check = |text: &str, expected: &[&str]| {
        let warnings = read(text).unwrap().warnings;
        assert_eq!(warnings.len(), expected.len(), "{text}: {warnings:?}");
        for part in expected {
            assert!(warnings.iter().any(|it| it.contains(part)), "{warnings:?} is without {part}");
        }
    };
    check(
        "optimization { graph { level: 1 } cuda { graphs: true } }",
        &["optimization.graph ", "optimization.cuda "],
    );
    check("response_cache { enable: true }", &["response_cache.enable"]);
    check("response_cache { enable: false }", &[]);
    check("parameters { key: \"execution_mode\" value { string_value: \"1\" } }", &["'execution_mode'"]);
    check("parameters { key: \"my_own\" value { string_value: \"1\" } }", &["'my_own'"]);
    check(
        "instance_group { host_policy: \"a\" rate_limiter { priority: 2 } }",
        &["host_policy", "rate_limiter"],
    );
    check(
        "optimization { execution_accelerators { cpu_execution_accelerator { name: \"openvino\" } } }",
        &["cpu_execution_accelerator"],
    );
    check(
        "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\"
         parameters { key: \"precision_mode\" value: \"FP16\" } } } }",
        &["precision_mode"],
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let check = |text: &str, parts: &[&str]| {
        let error = read(text).unwrap_err().to_string();
        for part in parts.iter().chain(&["config.pbtxt"]) {
            assert!(error.contains(part), "{text}: {error} is without {part}");
        }
    };
    check("name: \"other\"", &["'other'", "'m'"]);
    check("platform: \"tensorrt_plan\"", &["tensorrt_plan"]);
    check("backend: \"python\"", &["python"]);
    check("\nmax_batchsize: 1", &["line 2", "max_batchsize"]);
    check("ensemble_scheduling { step { model_name: \"a\" } }", &["ensemble_scheduling"]);
    check("input { name: \"x\" data_type: TYPE_FP32 dims: 1 optional: true }", &["input.optional"]);
    check("input { name: \"x\" data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true }", &["ragged"]);
    check("input { name: \"x\" dims: 1 }", &["'x'", "data_type"]);
    check("input { name: \"x\" data_type: TYPE_FP32 dims: -2 }", &["'x'", "-2"]);
    check("input { name: \"x\" data_type: TYPE_FP32 }", &["'x'", "dims"]);
    check("max_batch_size: -1", &["max_batch_size", "-1"]);
    check("default_model_filename: \"../../etc/passwd\"", &["default_model_filename"]);
    check("default_model_filename: \"/etc/passwd\"", &["default_model_filename"]);
    check(
        "output { name: \"y\" data_type: TYPE_FP32 dims: 1 label_filename: \"../x\" }",
        &["label_filename"],
    );
    check("instance_group { kind: KIND_MODEL }", &["KIND_MODEL"]);
    check("instance_group { count: 100000 }", &["100000", "64"]);
    check("max_batch_size: 4 dynamic_batching { preferred_batch_size: 5 }", &["preferred", "5"]);
    check("dynamic_batching { priority_levels: 2 }", &["priority level"]);
    check(
        "dynamic_batching { priority_levels: 99999999999 default_priority_level: 1 }",
        &["priority_levels"],
    );
    check(
        "dynamic_batching { priority_levels: 2 default_priority_level: 1 preserve_ordering: true }",
        &["one"],
    );
    check("version_policy { specific { versions: [ -3 ] } }", &["version_policy", "-3"]);
    check("version_policy { specific { } }", &["version policy"]);
    check("model_transaction_policy { decoupled: true }", &["decoupled"]);
    check("cc_model_filenames { key: \"7.5\" value: \"a\" }", &["cc_model_filenames"]);
    check(
        "parameters { key: \"intra_op_thread_count\" value { string_value: \"x\" } }",
        &["intra_op_thread_count"],
    );
    check(
        "model_warmup { name: \"w\" inputs { key: \"x\" value { data_type: TYPE_FP32 dims: 1 } } }",
        &["'w'", "'x'"],
    );
    check(
        "optimization { execution_accelerators { gpu_execution_accelerator { name: \"migraphx\" } } }",
        &["migraphx"],
    );
    check(
        "sequence_batching { state { input_name: \"h\" initial_state { data_file: \"a\" } } }",
        &["data_file"],
    );
}

#[test]
fn both_files_stand_beside_each_other_but_say_nothing_twice() {
    let both = |toml, pbtxt| ModelConfig::read("m", Some(toml), Some(Pbtxt::Text(pbtxt)));
    let config = both("queue_limit = 7\n[image]\ninput = \"x\"\nwidth = 1\nheight = 1", PBTXT).unwrap();
    assert_eq!((config.queue_limit, config.max_batch_size, config.source), (Some(7), 8, Source::Both));
    assert!(config.image.is_some());
    let check = |toml, pbtxt, parts: &[&str]| {
        let error = both(toml, pbtxt).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error} is without {part}");
        }
    };
    check("max_batch_size = 8", "max_batch_size: 8", &["max_batch_size in model.toml", "config.pbtxt"]);
    check("batch_delay_us = 1", PBTXT, &["batch_delay_us", "max_queue_delay_microseconds"]);
    check("threads = 1", PBTXT, &["threads", "intra_op_thread_count"]);
    check("providers = [\"cpu\"]", PBTXT, &["providers", "instance_group.kind"]);
    check("instances = 1", PBTXT, &["instances", "instance_group"]);
    check("versions = 2", PBTXT, &["versions", "version_policy"]);
}

#[test]
fn what_is_left_out_is_completed_as_triton_does_it() {
    let spec = |name: &str, first| engine::TensorSpec {
        name: name.to_owned(),
        datatype: engine::DataType::Fp32,
        shape: vec![first, engine::Dim::Fixed(1)],
    };
    let check = |config: Result<ModelConfig, Error>, first, default, size, warnings| {
        let mut config = config.unwrap();
        let signature = Signature { inputs: vec![spec("x", first)], outputs: vec![] };
        config.complete(&signature, default);
        assert_eq!((config.max_batch_size, config.warnings.len()), (size, warnings));
    };
    let whole = "input { name: \"x\" data_type: TYPE_FP32 dims: 1 } output { name: \"y\" data_type: TYPE_FP32 dims: 1 }";
    let any = || engine::Dim::Dynamic(None);
    check(ModelConfig::read("m", None, None), any(), 4, 4, 1);
    check(ModelConfig::read("m", None, None), engine::Dim::Fixed(1), 4, 0, 0);
    check(ModelConfig::read("m", None, None), any(), 0, 0, 0);
    check(ModelConfig::read("m", Some(""), None), any(), 4, 0, 0);
    check(read(""), any(), 4, 4, 1);
    check(read("max_batch_size: 2"), any(), 4, 2, 0);
    check(read(whole), any(), 4, 0, 0);
    // Without a batcher nothing is batched, and nothing is completed.
    assert!(!read(whole).unwrap().dynamic_batching);
    assert!(read("max_batch_size: 2").unwrap().dynamic_batching);
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Numbers and words of a good text, changed: most of it still parses, so that the mapping is reached.
        #[test]
        fn no_configuration_makes_the_mapping_panic(
            edits in prop::collection::vec((0_usize..1500, 1_usize..4, "[-0-9a-zA-Z]{1,10}"), 1..4)
        ) {
            let mut text: Vec<u8> = PBTXT.into();
            for (at, len, with) in edits {
                let at = at.min(text.len());
                let end = (at + len).min(text.len());
                text.splice(at..end, with.bytes());
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            if let Err(error) = read(&text) {
                prop_assert!(error.to_string().contains("config.pbtxt"));
            }
        }
    }
}
