//! Bodies of v2 inference requests, JSON and with the binary extension.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::http::{Request, Response};

/// Little-endian bytes of float32 values.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Float32 values of little-endian bytes.
pub fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])).collect()
}

/// `POST /v2/models/{model}/infer` with one float32 input as JSON.
pub fn json(model: &str, input: &str, shape: &[u64], values: &[f32]) -> Request {
    let body = json!({ "inputs": [{ "name": input, "shape": shape, "datatype": "FP32", "data": values }] });
    Request::post(&format!("/v2/models/{model}/infer"), body.to_string())
        .with("Content-Type", "application/json")
}

/// The same with the binary extension both ways.
pub fn binary(model: &str, input: &str, shape: &[u64], values: &[u8]) -> Request {
    let head = json!({
        "inputs": [{ "name": input, "shape": shape, "datatype": "FP32", "parameters": { "binary_data_size": values.len() } }],
        "parameters": { "binary_data_output": true },
    });
    binary_parts(model, &head, values)
}

/// A head and the bytes behind it, in full agreement about lengths or not.
pub fn binary_parts(model: &str, head: &Value, tail: &[u8]) -> Request {
    let head = head.to_string();
    let length = head.len().to_string();
    let mut body = head.into_bytes();
    body.extend_from_slice(tail);
    Request::post(&format!("/v2/models/{model}/infer"), body)
        .with("Content-Type", "application/octet-stream")
        .with("Inference-Header-Content-Length", &length)
}

/// The JSON head of a reply and the bytes behind it.
pub fn split(response: &Response) -> Result<(Value, &[u8])> {
    let length = match response.header("inference-header-content-length") {
        Some(length) => length.parse().context("not a header length")?,
        None => response.body.len(),
    };
    let (head, tail) =
        response.body.split_at_checked(length).context("the header length is outside the body")?;
    Ok((serde_json::from_slice(head).with_context(|| format!("not JSON: {response}"))?, tail))
}

/// The first output of a reply as float32, whichever way it came.
pub fn first_output(response: &Response) -> Result<Vec<f32>> {
    let (head, tail) = split(response)?;
    let output = &head["outputs"][0];
    if let Some(size) = output["parameters"]["binary_data_size"].as_u64() {
        let bytes = tail.get(..usize::try_from(size)?).context("fewer bytes than the head says")?;
        return Ok(f32_values(bytes));
    }
    let data = output["data"].as_array().with_context(|| format!("no data in {response}"))?;
    let mut flat = Vec::new();
    flatten(data, &mut flat)?;
    Ok(flat)
}

fn flatten(values: &[Value], out: &mut Vec<f32>) -> Result<()> {
    for value in values {
        match value {
            Value::Array(inner) => flatten(inner, out)?,
            // The text of a float32 is read as one, not narrowed from float64.
            Value::Number(number) => out.push(number.to_string().parse()?),
            other => anyhow::bail!("{other} is not a number"),
        }
    }
    Ok(())
}
