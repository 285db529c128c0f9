use std::time::Duration;

use engine::{Buffer, DataType, Device, Provider, Tensor};
use serde_json::{Value, json};
use wire::{NamedTensor, Part, Ran, Timings};

use super::{Context, Encoded, Wanted, reply};

fn tensor(datatype: DataType, shape: &[usize], bytes: &[u8]) -> Tensor {
    Tensor::new(datatype, shape.to_vec(), Buffer::copy_from(bytes)).unwrap()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn encode(request: &str, outputs: Vec<(&str, Tensor)>, labels: &[&str]) -> Result<Encoded, wire::Error> {
    let part = Part {
        outputs: outputs
            .into_iter()
            .map(|(name, tensor)| NamedTensor { name: name.to_owned(), tensor })
            .collect(),
        model_version: 3,
        ran: Ran {
            provider: Provider::Cpu,
            device: Device { id: "cpu".to_owned(), name: "Some \"CPU\"".to_owned() },
        },
        timings: Timings {
            queue: Duration::from_micros(7),
            batch: Duration::from_micros(2),
            compute: Duration::from_micros(900),
            batch_rows: 4,
        },
    };
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    let labels = [("y".to_owned(), labels)].into();
    let context = Context { model: "m", batches: true, labels: &labels };
    let wanted = if request.is_empty() {
        Wanted::raw()
    } else {
        Wanted::of(&crate::decode::head(request.as_bytes()).unwrap())
    };
    reply(&part, &wanted, context)
}

fn json_of(encoded: &Encoded) -> (Value, Vec<u8>) {
    let all = encoded.frames.concat();
    let length = encoded.header_length.unwrap_or(all.len());
    (serde_json::from_slice(&all[..length]).unwrap(), all[length..].to_vec())
}

#[test]
fn a_json_reply_says_everything() {
    let encoded = encode(
        r#"{"id":"q\"1","inputs":[]}"#,
        vec![("y", tensor(DataType::Fp32, &[2, 1], &floats(&[0.1, -3e-9])))],
        &[],
    )
    .unwrap();
    assert_eq!(encoded.header_length, None);
    let expected = r#"{"id":"q\"1","model_name":"m","model_version":"3","parameters":{"mast_provider":"cpu","mast_device":"cpu","mast_queue_us":7,"mast_batch_us":2,"mast_compute_us":900,"mast_batch_rows":4},"outputs":[{"name":"y","datatype":"FP32","shape":[2,1],"data":[0.1,-3e-9]}]}"#;
    assert_eq!(String::from_utf8(encoded.frames.concat()).unwrap(), expected);
}

#[test]
fn binary_is_as_asked_per_output() {
    let large = vec![1_u8; 20_000];
    let check = |request: &str, binary: [bool; 2], tail: usize| {
        let outputs = vec![
            ("y", tensor(DataType::Uint8, &[2], &[5, 6])),
            ("z", tensor(DataType::Uint8, &[1, 20_000], &large)),
        ];
        let (json, rest) = json_of(&encode(request, outputs, &[]).unwrap());
        let is_binary = |index: usize| {
            let output = &json["outputs"][index];
            assert_ne!(output["data"].is_array(), output["parameters"]["binary_data_size"].is_u64());
            output["data"].is_null()
        };
        assert_eq!([is_binary(0), is_binary(1)], binary, "{request}");
        assert_eq!(rest.len(), tail, "{request}");
    };
    check("", [true, true], 20_002);
    check(r#"{"inputs":[]}"#, [false, false], 0);
    check(r#"{"inputs":[],"parameters":{"binary_data_output":true}}"#, [true, true], 20_002);
    check(r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}"#, [true, false], 2);
    check(
        r#"{"inputs":[],"parameters":{"binary_data_output":true},
            "outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z"}]}"#,
        [false, true],
        20_000,
    );
}

#[test]
fn an_empty_binary_output_needs_no_header() {
    let encoded = encode("", vec![("y", tensor(DataType::Fp32, &[0, 4], &[]))], &[]).unwrap();
    assert_eq!(encoded.header_length, None);
    let (json, rest) = json_of(&encoded);
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 0);
    assert!(rest.is_empty());
}

#[test]
fn classes_are_the_highest_values_row_by_row() {
    let check = |count: usize, shape: &[usize], values: &[f32], labels: &[&str], expected: Value| {
        let request = format!(
            r#"{{"inputs":[],"outputs":[{{"name":"y","parameters":{{"classification":{count}}}}}]}}"#
        );
        let outputs = vec![("y", tensor(DataType::Fp32, shape, &floats(values)))];
        let (json, _) = json_of(&encode(&request, outputs, labels).unwrap());
        let output = &json["outputs"][0];
        assert_eq!(output["datatype"], "BYTES");
        assert_eq!(json!([output["shape"], output["data"]]), expected);
    };
    check(
        2,
        &[2, 3],
        &[0.1, 0.7, 0.2, 3.0, 3.0, -1.0],
        &["cat", "dog"],
        json!([[2, 2], ["0.700000:1:dog", "0.200000:2", "3.000000:0:cat", "3.000000:1:dog"]]),
    );
    check(9, &[1, 2], &[0.25, 0.5], &[], json!([[1, 2], ["0.500000:1", "0.250000:0"]]));
    check(1, &[1, 2, 2], &[1.0, 2.0, 4.0, 3.0], &[], json!([[1, 1], ["4.000000:2"]]));
}

#[test]
fn what_json_cannot_say_is_an_error_that_names_the_way_out() {
    let check = |datatype: DataType, shape: &[usize], bytes: &[u8], ok_in_binary: bool| {
        let error = encode(r#"{"inputs":[]}"#, vec![("y", tensor(datatype, shape, bytes))], &[]).unwrap_err();
        assert!(error.message.contains("binary"), "{}", error.message);
        let binary = encode("", vec![("y", tensor(datatype, shape, bytes))], &[]);
        assert_eq!(binary.is_ok(), ok_in_binary);
    };
    check(DataType::Fp32, &[1], &f32::NAN.to_le_bytes(), true);
    check(DataType::Fp32, &[1], &f32::INFINITY.to_le_bytes(), true);
    check(DataType::Fp64, &[1], &f64::NEG_INFINITY.to_le_bytes(), true);
    check(DataType::Fp16, &[1], &[0, 0], true);
    check(DataType::Bf16, &[1], &[0, 0], true);
    check(DataType::Bytes, &[1], b"\x01\0\0\0\xff", true);
}
