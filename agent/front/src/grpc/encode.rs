//! A reply, from tensors to the message on the wire. Small tensors are copied into it; larger ones are sent from where
//! the engine left them.

use bytes::Bytes;
use engine::Buffer;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use triton::infer_parameter::ParameterChoice;
use triton::model_infer_response::InferOutputTensor;
use triton::{InferParameter, ModelInferResponse, ModelStreamInferResponse};
use wire::{Error, ErrorCode};

use crate::call::Answer;
use crate::encode::{COPY_BELOW, Shared, numbers, outputs};

/// `raw_output_contents` of ModelInferResponse.
const RAW: u32 = 6;
/// `infer_response` of ModelStreamInferResponse.
const INFER_RESPONSE: u32 = 2;

/// The message that a reply is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    ModelInferResponse,
    ModelStreamInferResponse,
}

/// The whole reply with its length before it.
///
/// # Errors
/// `InvalidArgument` where an output has no classes.
pub(super) fn reply(answer: &Answer, form: Form, marks_final: bool) -> Result<Vec<Bytes>, Error> {
    let context = answer.context();
    let mut message = ModelInferResponse {
        model_name: context.model.to_owned(),
        model_version: answer.part.model_version.to_string(),
        id: answer.wanted.id().unwrap_or_default().to_owned(),
        ..ModelInferResponse::default()
    };
    let mut say = |key: &str, choice: ParameterChoice| {
        message.parameters.insert(key.to_owned(), InferParameter { parameter_choice: Some(choice) });
    };
    let ran = &answer.part.ran;
    say("mast_request_id", ParameterChoice::StringParam(answer.id.to_string()));
    say("mast_provider", ParameterChoice::StringParam(ran.provider.name().to_owned()));
    say("mast_device", ParameterChoice::StringParam(ran.device.id.clone()));
    for (key, number) in numbers(&answer.part) {
        say(key, ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX)));
    }
    if marks_final {
        // The model's one reply is its last.
        say("triton_final_response", ParameterChoice::BoolParam(true));
    }
    let mut tensors = Vec::with_capacity(answer.part.outputs.len());
    for (name, tensor) in outputs(&answer.part, &answer.wanted, context)? {
        message.outputs.push(InferOutputTensor {
            name: name.to_owned(),
            datatype: tensor.datatype().name().to_owned(),
            shape: tensor.shape().iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect(),
            ..InferOutputTensor::default()
        });
        tensors.push(tensor.data().clone());
    }
    frames(&message, &tensors, form)
}

fn frames(message: &ModelInferResponse, tensors: &[Buffer], form: Form) -> Result<Vec<Bytes>, Error> {
    let raw = |tensor: &Buffer| 1 + encoded_len_varint(wide(tensor.len())) + tensor.len();
    let length = message.encoded_len() + tensors.iter().map(raw).sum::<usize>();
    let outer = match form {
        Form::ModelInferResponse => 0,
        Form::ModelStreamInferResponse => 1 + encoded_len_varint(wide(length)),
    };
    let copied: usize = tensors.iter().map(Buffer::len).filter(|length| *length <= COPY_BELOW).sum();
    let mut frames = Vec::new();
    let mut bytes = Vec::with_capacity(5 + outer + message.encoded_len() + copied + 11 * tensors.len());
    prefix(&mut bytes, outer + length)?;
    if form == Form::ModelStreamInferResponse {
        encode_key(INFER_RESPONSE, WireType::LengthDelimited, &mut bytes);
        encode_varint(wide(length), &mut bytes);
    }
    message.encode_raw(&mut bytes);
    for tensor in tensors {
        encode_key(RAW, WireType::LengthDelimited, &mut bytes);
        encode_varint(wide(tensor.len()), &mut bytes);
        if tensor.len() <= COPY_BELOW {
            bytes.extend_from_slice(tensor.bytes());
        } else {
            frames.push(std::mem::take(&mut bytes).into());
            frames.push(Bytes::from_owner(Shared(tensor.clone())));
        }
    }
    if !bytes.is_empty() {
        frames.push(bytes.into());
    }
    Ok(frames)
}

/// A request of a stream that has no result; the stream goes on.
pub(super) fn failure(id: &str, text: &str) -> Result<Bytes, Error> {
    let message = ModelStreamInferResponse {
        error_message: text.to_owned(),
        infer_response: Some(ModelInferResponse { id: id.to_owned(), ..ModelInferResponse::default() }),
    };
    let mut bytes = Vec::with_capacity(5 + message.encoded_len());
    prefix(&mut bytes, message.encoded_len())?;
    message.encode_raw(&mut bytes);
    Ok(bytes.into())
}

/// "Length-Prefixed-Message" of gRPC over HTTP/2.
fn prefix(bytes: &mut Vec<u8>, length: usize) -> Result<(), Error> {
    // Clients read lengths up to here only.
    let length = i32::try_from(length).map_err(|_| {
        Error::new(ErrorCode::TooLarge, "the reply is over 2 GiB, the most that a gRPC message holds")
    })?;
    bytes.push(0);
    bytes.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_the_message() {
        let check = |sizes: &[usize], form: Form, pieces: usize| {
            let fill = |(index, size): (usize, &usize)| {
                Buffer::copy_from(&vec![u8::try_from(index).unwrap(); *size])
            };
            let tensors: Vec<Buffer> = sizes.iter().enumerate().map(fill).collect();
            let message = ModelInferResponse { model_name: "m".to_owned(), ..ModelInferResponse::default() };
            let frames = frames(&message, &tensors, form).unwrap();
            assert_eq!(frames.len(), pieces, "{sizes:?}");
            let bytes = frames.concat();
            let (prefix, bytes) = bytes.split_at(5);
            assert_eq!(prefix, [&[0], &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..]].concat());
            let decoded = match form {
                Form::ModelInferResponse => ModelInferResponse::decode(bytes).unwrap(),
                Form::ModelStreamInferResponse => {
                    ModelStreamInferResponse::decode(bytes).unwrap().infer_response.unwrap()
                }
            };
            let expected: Vec<Bytes> =
                tensors.iter().map(|tensor| Bytes::copy_from_slice(tensor.bytes())).collect();
            assert_eq!(decoded, ModelInferResponse { raw_output_contents: expected, ..message });
        };
        for form in [Form::ModelInferResponse, Form::ModelStreamInferResponse] {
            check(&[], form, 1);
            check(&[0, 4, 200], form, 1);
            check(&[COPY_BELOW + 1], form, 2);
            check(&[4, 100_000, 0, 7, 20_000], form, 4);
        }
    }
}
