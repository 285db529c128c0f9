//! The v2 infer reply, read: JSON, or JSON and then tensors (binary tensor data extension).

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::client::{Answer, INFERENCE_HEADER};

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) ran: Ran,
    pub(super) outputs: Vec<Output>,
}

/// The agent's own parameters: what ran and where the time went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Ran {
    #[serde(rename = "mast_provider")]
    pub(super) provider: String,
    #[serde(rename = "mast_device")]
    pub(super) device: String,
    #[serde(rename = "mast_queue_us")]
    pub(super) queue_us: u64,
    #[serde(rename = "mast_batch_us")]
    pub(super) batch_us: u64,
    #[serde(rename = "mast_compute_us")]
    pub(super) compute_us: u64,
    #[serde(rename = "mast_batch_rows")]
    pub(super) batch_rows: u64,
}

#[derive(Debug, PartialEq)]
pub(super) struct Output {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<usize>,
    data: Data,
}

#[derive(Debug, PartialEq)]
enum Data {
    /// Little-endian elements.
    Binary(Bytes),
    /// Flat.
    Json(Vec<Value>),
}

#[derive(Deserialize)]
struct Head {
    model_name: String,
    #[serde(default)]
    model_version: String,
    #[serde(default)]
    parameters: Ran,
    outputs: Vec<OutputHead>,
}

#[derive(Deserialize)]
struct OutputHead {
    name: String,
    datatype: String,
    shape: Vec<usize>,
    #[serde(default)]
    parameters: OutputParameters,
    data: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputParameters {
    binary_data_size: Option<usize>,
}

impl Reply {
    /// # Errors
    /// What does not fit together, in words.
    pub(super) fn read(answer: &Answer) -> Result<Self, String> {
        let body = &answer.body;
        let json_len = match answer.headers.get(INFERENCE_HEADER) {
            None => body.len(),
            Some(value) => {
                let length = value.to_str().ok().and_then(|text| text.parse::<usize>().ok());
                length
                    .filter(|length| *length <= body.len())
                    .ok_or("the header length lies outside the body")?
            }
        };
        let head: Head = serde_json::from_slice(&body[..json_len]).map_err(|error| error.to_string())?;
        let mut rest = body.slice(json_len..);
        let mut outputs = Vec::with_capacity(head.outputs.len());
        for output in head.outputs {
            let data = match (output.parameters.binary_data_size, output.data) {
                (Some(size), _) if size <= rest.len() => Data::Binary(rest.split_to(size)),
                (Some(_), _) => return Err(format!("the data of output '{}' is cut off", output.name)),
                (None, Some(value)) => Data::Json(flatten(value)),
                (None, None) => return Err(format!("output '{}' has no data", output.name)),
            };
            outputs.push(Output { name: output.name, datatype: output.datatype, shape: output.shape, data });
        }
        Ok(Self { model: head.model_name, version: head.model_version, ran: head.parameters, outputs })
    }

    pub(super) fn output(&self, name: &str) -> Result<&Output, String> {
        let found = self.outputs.iter().find(|output| output.name == name);
        found.ok_or_else(|| format!("the reply has no output '{name}'"))
    }
}

impl Output {
    /// The elements as f32.
    ///
    /// # Errors
    /// In words, for types that are not numbers, and 16-bit floats, which have no Rust type.
    pub(super) fn floats(&self) -> Result<Vec<f32>, String> {
        let numbers = self.values(usize::MAX);
        let floats = numbers.iter().map(|value| value.as_f64().map(as_f32)).collect::<Option<Vec<f32>>>();
        match (&self.data, self.datatype.as_str()) {
            // The short way, which also keeps what JSON has no number for.
            (Data::Binary(bytes), "FP32") => Ok(elements(bytes, f32::from_le_bytes).collect()),
            _ => floats
                .filter(|floats| floats.len() == self.shape.iter().product::<usize>())
                .ok_or_else(|| format!("output '{}' of type {} holds no numbers", self.name, self.datatype)),
        }
    }

    /// The first elements.
    pub(super) fn values(&self, count: usize) -> Vec<Value> {
        let bytes = match &self.data {
            Data::Json(values) => return values.iter().take(count).cloned().collect(),
            Data::Binary(bytes) => bytes,
        };
        match self.datatype.as_str() {
            "BOOL" => take(bytes, count, |[byte]: [u8; 1]| byte != 0),
            "UINT8" => take(bytes, count, u8::from_le_bytes),
            "UINT16" => take(bytes, count, u16::from_le_bytes),
            "UINT32" => take(bytes, count, u32::from_le_bytes),
            "UINT64" => take(bytes, count, u64::from_le_bytes),
            "INT8" => take(bytes, count, i8::from_le_bytes),
            "INT16" => take(bytes, count, i16::from_le_bytes),
            "INT32" => take(bytes, count, i32::from_le_bytes),
            "INT64" => take(bytes, count, i64::from_le_bytes),
            "FP32" => take(bytes, count, f32::from_le_bytes),
            "FP64" => take(bytes, count, f64::from_le_bytes),
            "BYTES" => strings(bytes, count),
            _ => Vec::new(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "nearest f32, which is what is wanted")]
fn as_f32(value: f64) -> f32 {
    value as f32
}

fn flatten(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values.into_iter().flat_map(flatten).collect(),
        other => vec![other],
    }
}

fn elements<const SIZE: usize, T>(bytes: &Bytes, value: fn([u8; SIZE]) -> T) -> impl Iterator<Item = T> {
    let (chunks, _) = bytes.as_chunks::<SIZE>();
    chunks.iter().map(move |chunk| value(*chunk))
}

fn take<const SIZE: usize, T: Into<Value>>(
    bytes: &Bytes,
    count: usize,
    value: fn([u8; SIZE]) -> T,
) -> Vec<Value> {
    elements(bytes, value).take(count).map(Into::into).collect()
}

/// BYTES: a little-endian u32 length and that many bytes, again and again.
fn strings(bytes: &Bytes, count: usize) -> Vec<Value> {
    let mut rest: &[u8] = bytes;
    let next = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (text, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        rest = after;
        Some(Value::from(String::from_utf8_lossy(text).into_owned()))
    };
    std::iter::from_fn(next).take(count).collect()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use hyper::{HeaderMap, StatusCode};
    use serde_json::json;

    use super::*;

    fn answer(json: &Value, tensors: Option<&[u8]>) -> Answer {
        let mut body = serde_json::to_vec(json).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(tensors) = tensors {
            headers.insert(INFERENCE_HEADER, HeaderValue::from(body.len()));
            body.extend_from_slice(tensors);
        }
        Answer { status: StatusCode::OK, headers, body: body.into() }
    }

    fn reply(outputs: &Value) -> Value {
        json!({ "model_name": "m", "model_version": "3", "outputs": outputs,
                "parameters": { "mast_provider": "cpu", "mast_queue_us": 7, "other": true } })
    }

    #[test]
    fn both_forms_give_the_same_values() {
        let binary = json!([
            { "name": "a", "datatype": "FP32", "shape": [2], "parameters": { "binary_data_size": 8 } },
            { "name": "b", "datatype": "INT64", "shape": [1], "parameters": { "binary_data_size": 8 } },
            { "name": "c", "datatype": "BYTES", "shape": [2], "parameters": { "binary_data_size": 9 } },
        ]);
        let mut tensors = Vec::new();
        tensors.extend([0.5_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat());
        tensors.extend((-3_i64).to_le_bytes());
        tensors.extend(b"\x01\0\0\0x\0\0\0\0");
        let plain = json!([
            { "name": "a", "datatype": "FP32", "shape": [2], "data": [0.5, 2.0] },
            { "name": "b", "datatype": "INT64", "shape": [1], "data": [[-3]] },
            { "name": "c", "datatype": "BYTES", "shape": [2], "data": ["x", ""] },
        ]);
        for answer in [answer(&reply(&binary), Some(&tensors)), answer(&reply(&plain), None)] {
            let reply = Reply::read(&answer).unwrap();
            assert_eq!((reply.model.as_str(), reply.version.as_str()), ("m", "3"));
            assert_eq!((reply.ran.provider.as_str(), reply.ran.queue_us), ("cpu", 7));
            assert_eq!(reply.output("a").unwrap().floats().unwrap(), [0.5, 2.0]);
            assert_eq!(reply.output("a").unwrap().values(1), [json!(0.5)]);
            assert_eq!(reply.output("b").unwrap().floats().unwrap(), [-3.0]);
            assert_eq!(reply.output("c").unwrap().values(9), [json!("x"), json!("")]);
            assert!(reply.output("c").unwrap().floats().is_err());
            assert!(reply.output("d").is_err());
        }
    }

    #[test]
    fn a_reply_that_does_not_fit_together_is_refused() {
        let check = |outputs: Value, tensors: Option<&[u8]>, part: &str| {
            let error = Reply::read(&answer(&reply(&outputs), tensors)).unwrap_err();
            assert!(error.contains(part), "{error} has no '{part}'");
        };
        let sized = |size: usize| json!([{ "name": "a", "datatype": "FP32", "shape": [1], "parameters": { "binary_data_size": size } }]);
        check(sized(8), Some(&[0; 4]), "cut off");
        check(sized(4), None, "cut off");
        check(json!([{ "name": "a", "datatype": "FP32", "shape": [1] }]), None, "no data");
        check(json!(7), None, "expected a sequence");
        let mut wrong = answer(&reply(&json!([])), Some(&[]));
        wrong.headers.insert(INFERENCE_HEADER, HeaderValue::from(1_000_000));
        assert!(Reply::read(&wrong).unwrap_err().contains("outside the body"));
    }
}
