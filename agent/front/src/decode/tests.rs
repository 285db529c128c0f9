use engine::{Buffer, BufferMut, DataType, Tensor};
use proptest::prelude::*;
use wire::{Error, ErrorCode, NamedTensor, Sequence, SequenceId};

use super::data::MAX_DEPTH;
use super::head::MAX_TENSORS;
use super::{Room, Source, head, json_tensor, tensor};

/// Memory without a budget; counts what was asked for.
#[derive(Default)]
struct Heap {
    taken: usize,
}

impl Room for Heap {
    fn take(&mut self, bytes: usize) -> Result<BufferMut, Error> {
        self.taken += bytes;
        Ok(BufferMut::heap(bytes))
    }
}

/// All inputs of a request whose binary part is `tail`.
fn decode(json: &[u8], mut tail: &[u8]) -> Result<Vec<NamedTensor>, Error> {
    let head = head(json)?;
    let mut heap = Heap::default();
    let mut tensors = Vec::new();
    for input in &head.inputs {
        tensors.push(match input.source {
            Source::Json(raw) => json_tensor(input, raw, &mut heap)?,
            Source::Binary(size) => {
                let (bytes, rest) = tail.split_at_checked(size).ok_or_else(|| Error::invalid("short"))?;
                tail = rest;
                tensor(input, Buffer::copy_from(bytes))?
            }
        });
    }
    assert!(heap.taken <= 4 * json.len() + 8, "{} bytes of memory for {} of JSON", heap.taken, json.len());
    Ok(tensors)
}

fn one(datatype: &str, shape: &str, data: &str) -> Result<NamedTensor, Error> {
    let json =
        format!(r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#);
    let mut tensors = decode(json.as_bytes(), b"")?;
    assert_eq!(tensors.len(), 1);
    Ok(tensors.remove(0))
}

#[test]
fn elements_become_bytes() {
    let check = |datatype: &str, shape: &str, data: &str, expected: &[u8]| {
        let got = one(datatype, shape, data).unwrap_or_else(|error| panic!("{datatype} {data}: {error}"));
        assert_eq!(got.tensor.data().bytes(), expected, "{datatype} {data}");
        assert_eq!(got.tensor.datatype().name(), datatype);
    };
    check("BOOL", "[2]", "[true, false]", &[1, 0]);
    check("UINT8", "[2]", "[0,255]", &[0, 255]);
    check("INT8", "[3]", "[-128,-1,127]", &[0x80, 0xff, 0x7f]);
    check("UINT16", "[1]", "[65535]", &[0xff; 2]);
    check("INT16", "[1]", "[-2]", &[0xfe, 0xff]);
    check("UINT32", "[1]", "[4294967295]", &[0xff; 4]);
    check("INT32", "[1]", "[-2147483648]", &[0, 0, 0, 0x80]);
    check("UINT64", "[1]", "[18446744073709551615]", &[0xff; 8]);
    check("INT64", "[1]", "[-9223372036854775808]", &[0, 0, 0, 0, 0, 0, 0, 0x80]);
    check("FP32", "[2]", "[1, -0.5]", &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xbf]);
    check("FP64", "[1]", "[1e0]", &1_f64.to_le_bytes());
    check("BYTES", "[2]", r#"["ab", ""]"#, b"\x02\0\0\0ab\0\0\0\0");
    check("BYTES", "[1]", r#"["\"\\\u00e9\n]"]"#, b"\x06\0\0\0\"\\\xc3\xa9\n]");
    // Nested or flat, and with any white space.
    check("UINT8", "[2,2]", "[[1,2],[3,4]]", &[1, 2, 3, 4]);
    check("UINT8", "[2,2]", "[1,2,3,4]", &[1, 2, 3, 4]);
    check("UINT8", "[2,2,1]", "[ [ [1]\t,[2] ] ,\r\n [[3],[4]]]", &[1, 2, 3, 4]);
    check("UINT8", "[0,7]", "[]", &[]);
    check("UINT8", "[0]", "[[],[]]", &[]);
    check("UINT8", "[]", "[5]", &[5]);
    check("UINT8", "[]", "5", &[5]);
    let deep = format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    check("UINT8", "[1]", &deep, &[1]);
}

#[test]
fn what_is_no_element_is_said() {
    let check = |datatype: &str, shape: &str, data: &str, part: &str| {
        let error = one(datatype, shape, data).expect_err(data);
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.message.contains(part), "{datatype} {shape} {data}: {}", error.message);
    };
    for (datatype, data) in [
        ("UINT8", "[256]"),
        ("UINT8", "[-1]"),
        ("UINT8", "[1.0]"),
        ("UINT8", "[1e0]"),
        ("UINT8", "[true]"),
        ("UINT8", "[\"1\"]"),
        ("INT8", "[128]"),
        ("INT64", "[9223372036854775808]"),
        ("UINT64", "[18446744073709551616]"),
        ("FP32", "[1e39]"),
        ("FP32", "[null]"),
        ("FP32", "[\"NaN\"]"),
        ("FP64", "[1e309]"),
        ("BOOL", "[1]"),
        ("BOOL", "[\"true\"]"),
        ("BOOL", "[null]"),
    ] {
        check(datatype, "[1]", data, "element 0 of data");
    }
    check("BYTES", "[1]", "[1]", "texts");
    check("FP16", "[1]", "[1.0]", "binary extension");
    check("BF16", "[1]", "[1.0]", "binary extension");
    check("UINT8", "[2]", "[1]", "fewer");
    check("UINT8", "[1]", "[1,2]", "more");
    check("UINT8", "[0]", "[1]", "more");
    check("BYTES", "[2]", "[\"a\"]", "frames 1");
    check("UINT8", "[1]", "{}", "object");
    check("UINT8", "[1]", "[{\"a\":1}]", "object");
    let deep = format!("{}1{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    check("UINT8", "[1]", &deep, "deeper");
    // A short text must not make much memory.
    check("FP64", "[1000000000000]", "[1]", "fewer");
    check("FP32", "[4294967296,4294967296,4]", "[1]", "too large");
    check("FP64", "[2305843009213693952]", "[1]", "too large");
    check("FP32", "[-1]", "[1]", "negative");
}

#[test]
fn a_malformed_head_is_said() {
    let check = |json: &str, code: ErrorCode, part: &str| {
        let error = decode(json.as_bytes(), b"").expect_err(json);
        assert_eq!(error.code, code, "{json}: {}", error.message);
        assert!(error.message.contains(part), "{json}: {}", error.message);
    };
    let invalid = ErrorCode::InvalidArgument;
    let input = |more: &str| format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1]{more}}}]}}"#);
    for text in ["", "{", "[]", "1", "{}", "{\"inputs\":{}}", "\u{0}", "{\"inputs\":[]}x", "{\"inputs\":[1]}"]
    {
        check(text, invalid, "failed to parse the request JSON buffer");
    }
    check(r#"{"inputs":[{"datatype":"FP32","shape":[1],"data":[1]}]}"#, invalid, "name");
    check(r#"{"inputs":[{"name":"x","shape":[1],"data":[1]}]}"#, invalid, "datatype");
    check(r#"{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}"#, invalid, "shape");
    check(r#"{"inputs":[{"name":"x","datatype":"FP8","shape":[1],"data":[1]}]}"#, invalid, "'FP8'");
    check(r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1.5],"data":[1]}]}"#, invalid, "parse");
    check(r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1e300],"data":[1]}]}"#, invalid, "parse");
    let many = |element: &str, count: usize| vec![element; count].join(",");
    let shape = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[{}],"data":[1]}}]}}"#,
        many("1", MAX_DEPTH + 1)
    );
    check(&shape, invalid, "at most 100");
    let one = r#"{"name":"x","datatype":"FP32","shape":[1],"data":[1]}"#;
    check(&format!(r#"{{"inputs":[{}]}}"#, many(one, MAX_TENSORS + 1)), invalid, "at most 4096");
    let outputs = many(r#"{"name":"y"}"#, MAX_TENSORS + 1);
    check(&format!(r#"{{"inputs":[{one}],"outputs":[{outputs}]}}"#), invalid, "at most 4096");
    check(&input(""), invalid, "neither");
    check(&input(r#","data":[1],"parameters":{"binary_data_size":4}"#), invalid, "both");
    check(&input(r#","parameters":{"binary_data_size":5}"#), invalid, "needs 4 bytes");
    check(&input(r#","parameters":{"binary_data_size":-1}"#), invalid, "parse");
    check(&input(r#","data":[1],"data":[2]"#), invalid, "duplicate");
    check(
        &input(r#","data":[1],"parameters":{"shared_memory_region":"r"}"#),
        ErrorCode::Unsupported,
        "memory",
    );
    let with = |parameters: &str| {
        format!(
            r#"{{"parameters":{parameters},"inputs":[{{"name":"x","datatype":"UINT8","shape":[1],"data":[1]}}]}}"#
        )
    };
    check(&with(r#"{"sequence_id":-7}"#), invalid, "parse");
    check(&with(&format!(r#"{{"sequence_id":"{}"}}"#, "a".repeat(129))), invalid, "128 bytes");
    check(&with(r#"{"sequence_start":1}"#), invalid, "parse");
    check(&with(r#"{"triton_x":1}"#), invalid, "triton_");
    check(&with(r#"{"timeout":"soon"}"#), invalid, "parse");
    check(&with(r#"{"priority":-1}"#), invalid, "parse");
    check(&with("[]"), invalid, "parse");
}

#[test]
fn reserved_parameters_are_read_and_others_ignored() {
    let json =
        br#"{"id":"a\u0062","extra":{"deep":[{}]},"parameters":{"timeout":1500,"priority":1,"mine":[1],
        "sequence_id":0,"sequence_start":true,"binary_data_output":true},
        "outputs":[{"name":"y","parameters":{"binary_data":false,"classification":3,"mine":{}}},{"name":"z"}],
        "inputs":[{"data":[7],"datatype":"UINT8","shape":[1],"name":"x"}]}"#;
    let head = head(json).unwrap();
    assert_eq!(head.id.as_deref(), Some("ab"));
    assert_eq!(head.parameters.wishes.timeout().unwrap().as_micros(), 1500);
    assert_eq!((head.parameters.wishes.priority, head.parameters.wishes.sequence()), (1, None));
    assert!(head.parameters.binary_data_output);
    let outputs: Vec<_> = head
        .outputs
        .iter()
        .map(|output| (&*output.name, output.parameters.binary_data, output.parameters.classification))
        .collect();
    assert_eq!(outputs, [("y", Some(false), 3), ("z", None, 0)]);
    // The keys of an input may come in any order, `data` first too.
    assert_eq!(decode(json, b"").unwrap()[0].tensor.data().bytes(), [7]);
}

#[test]
fn a_sequence_has_an_id_of_either_kind() {
    let check = |parameters: &str, expected: Option<Sequence>| {
        let json = format!(r#"{{"parameters":{{{parameters}}},"inputs":[]}}"#);
        assert_eq!(head(json.as_bytes()).unwrap().parameters.wishes.sequence(), expected, "{parameters}");
    };
    let sequence = |id, start, end| Some(Sequence { id, start, end });
    check(r#""sequence_id":7,"sequence_start":true"#, sequence(SequenceId::Number(7), true, false));
    check(
        r#""sequence_id":"a","sequence_end":true"#,
        sequence(SequenceId::Text("a".to_owned()), false, true),
    );
    check(r#""sequence_id":"","sequence_start":true"#, None);
    check(r#""sequence_start":true"#, None);
}

#[test]
fn binary_tensors_are_checked() {
    let check = |datatype: &str, shape: &str, tail: &[u8], part: Option<&str>| {
        let json = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"parameters":{{"binary_data_size":{}}}}}]}}"#,
            tail.len()
        );
        match (decode(json.as_bytes(), tail), part) {
            (Ok(got), None) => assert_eq!(got[0].tensor.data().bytes(), tail),
            (Err(error), Some(part)) => assert!(error.message.contains(part), "{}", error.message),
            (got, part) => panic!("{datatype} {shape}: {got:?}, expected {part:?}"),
        }
    };
    check("FP16", "[2]", &[0, 1, 2, 3], None);
    check("BF16", "[1,1]", &[0, 1], None);
    check("BOOL", "[2]", &[0, 1], None);
    check("BOOL", "[2]", &[0, 2], Some("0 or 1"));
    check("BYTES", "[2]", b"\x01\0\0\0a\0\0\0\0", None);
    check("BYTES", "[2]", b"\x01\0\0\0a", Some("frames 1"));
    check("BYTES", "[1]", b"\xff\xff\xff\xff", Some("frames 0"));
    check("BYTES", "[1000000000000]", b"", Some("frames 0"));
    check("FP32", "[2]", &[0; 4], Some("needs 8 bytes"));
    check("FP32", "[0]", &[], None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(json in proptest::collection::vec(any::<u8>(), 0..200), tail in any::<[u8; 8]>()) {
        decode(&json, &tail).ok();
    }

    #[test]
    fn arbitrary_data_never_panics(data in "[\\[\\]{}0-9eE+\\-., \"a-z\\\\]{0,60}", datatype in 0..14_usize) {
        let datatype = DataType::ALL[datatype].name();
        one(datatype, "[2]", &data).ok();
        one(datatype, "[9000000000]", &data).ok();
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same(
        bytes in proptest::collection::vec(any::<u8>(), 0..96),
        texts in proptest::collection::vec(".{0,12}", 0..6),
    ) {
        for datatype in DataType::ALL {
            let Some(sample) = sample(datatype, &bytes, &texts) else { continue };
            let json = crate::encode::test_request(&sample);
            let again = decode(&json, b"");
            let again = again.map_err(|error| TestCaseError::fail(format!("{datatype}: {error}")))?;
            prop_assert_eq!(again[0].tensor.data().bytes(), sample.data().bytes(), "{}", datatype);
            prop_assert_eq!(again[0].tensor.shape(), sample.shape());
        }
    }
}

/// A tensor of the type made from the bytes; nothing for types and values that JSON has no form for.
fn sample(datatype: DataType, bytes: &[u8], texts: &[String]) -> Option<Tensor> {
    let data = match datatype {
        DataType::Fp16 | DataType::Bf16 => return None,
        DataType::Bool => bytes.iter().map(|byte| byte & 1).collect(),
        DataType::Fp32 => {
            let floats = bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap()));
            floats.filter(|value| value.is_finite()).flat_map(f32::to_le_bytes).collect()
        }
        DataType::Fp64 => {
            let floats = bytes.chunks_exact(8).map(|chunk| f64::from_le_bytes(chunk.try_into().unwrap()));
            floats.filter(|value| value.is_finite()).flat_map(f64::to_le_bytes).collect()
        }
        DataType::Bytes => texts
            .iter()
            .flat_map(|text| [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat())
            .collect(),
        _ => bytes.to_vec(),
    };
    let count = datatype.size().map_or(texts.len(), |size| data.len() / size);
    let whole = datatype.size().map_or(data.len(), |size| count * size);
    Some(Tensor::new(datatype, vec![count], Buffer::copy_from(&data[..whole])).unwrap())
}

#[test]
fn an_array_is_no_object() {
    for wrong in [
        r#"[null,{},[],[]]"#,
        r#"{"inputs":[["x","FP32",[1],{},[0]]]}"#,
        r#"{"inputs":[],"outputs":[["y",{}]]}"#,
    ] {
        assert_eq!(head(wrong.as_bytes()).unwrap_err().code, ErrorCode::InvalidArgument, "{wrong}");
    }
}

#[test]
fn a_count_is_whole_however_it_is_written() {
    let check = |count: &str, ok: bool| {
        let json = format!(
            r#"{{"inputs":[],"outputs":[{{"name":"y","parameters":{{"classification":{count}}}}}],"parameters":{{"timeout":{count}}}}}"#
        );
        assert_eq!(head(json.as_bytes()).is_ok(), ok, "{count}");
    };
    check("3", true);
    check("3.0", true);
    check("3e0", true);
    check("3.5", false);
    check("-3", false);
    check("\"3\"", false);
}
