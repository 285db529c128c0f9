//! What a request takes in memory once it is decoded: a protobuf of two bytes may become a hundred, so the budget is
//! asked before the decoding.

use bytes::Buf as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use wire::Error;

/// A tensor of a request, in a list that is half empty.
const TENSOR_BYTES: usize = 640;
/// An entry of a map of parameters, in a table that is half empty.
const PARAMETER_BYTES: usize = 192;
/// An element of a list of texts, in a list that is half empty.
const TEXT_BYTES: usize = 64;

/// Bytes that `head`, a ModelInferRequest without raw contents, takes at most.
///
/// # Errors
/// `InvalidArgument`: it is no such message.
pub(super) fn weigh(head: &[u8]) -> Result<usize, Error> {
    walk(head, |number, value| match (number, value) {
        (4, Value::Bytes(entry)) => Ok(PARAMETER_BYTES + entry.len()),
        (5, Value::Bytes(input)) => Ok(TENSOR_BYTES + weigh_input(input)?),
        (6, Value::Bytes(output)) => Ok(TENSOR_BYTES + weigh_output(output)?),
        (_, value) => Ok(value.len()),
    })
}

fn weigh_input(input: &[u8]) -> Result<usize, Error> {
    walk(input, |number, value| match (number, value) {
        (3, value) => Ok(scalars(value, 8)),
        (4, Value::Bytes(entry)) => Ok(PARAMETER_BYTES + entry.len()),
        (5, Value::Bytes(contents)) => Ok(TENSOR_BYTES + weigh_contents(contents)?),
        (_, value) => Ok(value.len()),
    })
}

fn weigh_output(output: &[u8]) -> Result<usize, Error> {
    walk(output, |_, value| Ok(PARAMETER_BYTES + value.len()))
}

fn weigh_contents(contents: &[u8]) -> Result<usize, Error> {
    walk(contents, |number, value| {
        Ok(match number {
            1 => scalars(value, 1),
            2 | 4 => scalars(value, 4),
            3 | 5 => scalars(value, 8),
            6 | 7 => 2 * value.len(),
            _ => TEXT_BYTES + value.len(),
        })
    })
}

/// Numbers of at least one byte each, in a list that is half empty.
fn scalars(value: Value<'_>, size: usize) -> usize {
    2 * value.len().saturating_mul(size)
}

#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    /// A number of so many bytes once it is decoded.
    Number(usize),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn len(self) -> usize {
        match self {
            Value::Number(bytes) => bytes,
            Value::Bytes(bytes) => bytes.len(),
        }
    }
}

/// The sum over the fields of a message.
fn walk(mut rest: &[u8], weigh: impl Fn(u32, Value<'_>) -> Result<usize, Error>) -> Result<usize, Error> {
    let malformed = || Error::invalid("the message is no ModelInferRequest: malformed protobuf");
    let mut sum = 0_usize;
    while rest.has_remaining() {
        let (number, wire) = decode_key(&mut rest).map_err(|_| malformed())?;
        let value = match wire {
            WireType::Varint => {
                decode_varint(&mut rest).map_err(|_| malformed())?;
                Value::Number(1)
            }
            WireType::SixtyFourBit | WireType::ThirtyTwoBit => {
                let size = if wire == WireType::SixtyFourBit { 8 } else { 4 };
                rest = rest.get(size..).ok_or_else(malformed)?;
                Value::Number(size)
            }
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok());
                let (value, after) =
                    length.and_then(|length| rest.split_at_checked(length)).ok_or_else(malformed)?;
                rest = after;
                Value::Bytes(value)
            }
            WireType::StartGroup | WireType::EndGroup => return Err(malformed()),
        };
        sum = sum.saturating_add(weigh(number, value)?);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use triton::model_infer_request::InferInputTensor;
    use triton::{InferTensorContents, ModelInferRequest};

    use super::*;

    #[test]
    fn what_swells_is_weighed_before_it_is_decoded() {
        let check = |input: InferInputTensor, count: usize, least: usize| {
            let request = ModelInferRequest { inputs: vec![input; count], ..ModelInferRequest::default() };
            let encoded = request.encode_to_vec();
            let weight = weigh(&encoded).unwrap();
            assert!(weight >= least, "{} encoded bytes weigh {weight}, not {least}", encoded.len());
            for end in 1..encoded.len().min(50) {
                // Cut anywhere, it is an error or less; never a panic.
                drop(weigh(&encoded[..end]));
            }
        };
        let contents =
            |contents| InferInputTensor { contents: Some(contents), ..InferInputTensor::default() };
        check(InferInputTensor::default(), 1000, 1000 * size_of::<InferInputTensor>());
        check(InferInputTensor { shape: vec![1; 100], ..InferInputTensor::default() }, 1, 800);
        check(
            contents(InferTensorContents { bytes_contents: vec![Vec::new(); 1000], ..Default::default() }),
            1,
            24_000,
        );
        check(contents(InferTensorContents { int64_contents: vec![1; 1000], ..Default::default() }), 1, 8000);
        check(contents(InferTensorContents { int_contents: vec![1; 1000], ..Default::default() }), 1, 4000);
        check(
            contents(InferTensorContents { fp32_contents: vec![1.0; 1000], ..Default::default() }),
            1,
            4000,
        );
    }
}
