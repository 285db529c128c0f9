use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model_config::SchedulingChoice;

/// In the shape of the examples of Triton's documentation: comments, both list forms, both colon forms.
const TEXT: &str = r#"
# A detector.
name: "detector"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  {
    name: "image"
    data_type: TYPE_FP32
    dims: [ 3, 224, 224 ]
  }
]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_levels: 2, default_priority_level: 2
  priority_queue_policy { key: 1 value: { max_queue_size: 5 timeout_action: DELAY } }
}
instance_group [ { count: 2 kind: KIND_CPU } ]
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
version_policy: { latest { num_versions: 2 } }
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
"#;

#[test]
fn text_becomes_the_message() {
    let config = parse(TEXT).unwrap();
    assert_eq!((config.name.as_str(), config.max_batch_size), ("detector", 8));
    assert_eq!(config.input[0].dims, [3, 224, 224]);
    let Some(SchedulingChoice::DynamicBatching(batching)) = config.scheduling_choice else {
        panic!("it has a batcher");
    };
    assert_eq!(batching.preferred_batch_size, [4, 8]);
    assert_eq!(batching.priority_queue_policy[&1].max_queue_size, 5);
    assert_eq!(config.parameters["intra_op_thread_count"].string_value, "2");
    assert_eq!(parse("").unwrap(), crate::ModelConfig::default());
}

#[test]
fn json_becomes_the_same_message() {
    let json = r#"{"name": "m", "max_batch_size": 2, "dynamic_batching": {"max_queue_delay_microseconds": "7"},
        "input": [{"name": "x", "data_type": "TYPE_INT8", "dims": ["-1", 4]}],
        "version_policy": {"all": {}}, "parameters": {"k": {"string_value": "v"}}}"#;
    let text = r#"name: "m" max_batch_size: 2 dynamic_batching < max_queue_delay_microseconds: 7 >
        input { name: "x" data_type: TYPE_INT8 dims: -1 dims: 4 } version_policy { all {} }
        parameters { key: "k" value { string_value: "v" } }"#;
    assert_eq!(parse_json(json).unwrap(), parse(text).unwrap());
}

#[test]
fn an_error_has_a_place_and_a_name() {
    let check = |result: Result<crate::ModelConfig, Error>, line, parts: &[&str]| {
        let error = result.unwrap_err();
        let Error::Syntax { line: at, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*at, line, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error} is without {part}");
        }
    };
    check(parse("name: \"m\"\n  max_batchsize: 4\n"), 2, &["column 3", "max_batchsize"]);
    check(parse("input {\n name: \"x\"\n dtype: TYPE_FP32 }"), 3, &["dtype", "ModelInput"]);
    check(parse("input { data_type: TYPE_FP31 }"), 1, &["TYPE_FP31"]);
    check(parse("name: \"m\"\nname: \"n\""), 2, &["name", "already set"]);
    check(parse("max_batch_size: 99999999999"), 1, &["99999999999"]);
    check(parse("input [ {} ] output[ {} ] input [ { nam: 1 } ]"), 1, &["column 37", "nam"]);
    check(parse("dynamic_batching {}\nsequence_batching {}"), 2, &["scheduling_choice"]);
    check(parse("name: \"m"), 1, &["column"]);
    check(parse("input [ { name: \"x\" }"), 1, &["column 22", "end of input"]);
    check(parse_json("{\"name\": \"m\",\n \"max_batchsize\": 4}"), 2, &["max_batchsize"]);
    check(parse_json("{\"name\": \"m\"} x"), 1, &["trailing"]);
}

#[test]
fn length_and_depth_are_bounded() {
    let long = format!("name: \"{}\"", "x".repeat(LIMIT_BYTES));
    assert!(matches!(parse(&long), Err(Error::TooLong { .. })));
    for open in ["input {", "input <", "[", "{\"a\":"] {
        for text in [open.repeat(100_000), format!("# {{\n{}", open.repeat(50))] {
            assert!(matches!(parse(&text), Err(Error::TooDeep { .. })), "{open}");
        }
        assert!(matches!(parse_json(&open.repeat(100_000)), Err(Error::TooDeep { .. })), "{open}");
    }
    // Brackets in quotes and comments nest nothing.
    parse(&format!("# {}\nname: \"{}\\\"[\"", "{".repeat(99), "[".repeat(99))).unwrap();
}

#[test]
fn what_is_set_is_known_by_its_path() {
    let set = set_fields(&parse(TEXT).unwrap());
    for path in [
        "name",
        "input.dims",
        "dynamic_batching",
        "dynamic_batching.priority_queue_policy.timeout_action",
        "instance_group.kind",
        "parameters.string_value",
        "version_policy.latest.num_versions",
        "optimization.execution_accelerators.gpu_execution_accelerator.name",
    ] {
        assert!(set.contains(path), "{path} is not in {set:?}");
    }
    assert!(!set.contains("backend") && !set.contains("input.optional"));
    let known: BTreeSet<_> = fields().into_iter().map(|field| field.path).collect();
    assert!(set.is_subset(&known));
    assert!(known.len() > 150, "{}", known.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Cuts, doubles and overwrites parts of a good text.
    #[test]
    fn no_text_makes_the_parser_panic(
        edits in prop::collection::vec((0_usize..1200, 0_usize..40, "[ -~\n]{0,12}"), 1..6)
    ) {
        let mut text: Vec<u8> = TEXT.into();
        for (at, len, with) in edits {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, with.bytes());
        }
        let text = String::from_utf8_lossy(&text);
        if let Ok(config) = parse(&text) {
            set_fields(&config);
        }
        if let Err(error) = parse_json(&text) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(text in "\\PC{0,400}") {
        parse(&text).ok();
        parse_json(&text).ok();
    }
}
