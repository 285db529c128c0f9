//! A ModelInferRequest, from its message to tensors.

use std::collections::HashMap;

use engine::{Buffer, DataType};
use triton::infer_parameter::ParameterChoice;
use triton::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use triton::{InferParameter, InferTensorContents, ModelInferRequest};
use wire::{Error, ErrorCode, NamedTensor, SequenceId};

use super::contents;
use crate::call::Decoded;
use crate::decode::{self, MAX_DEPTH, OutputParameters, RESERVED, Room, Wishes, sequence_id};
use crate::encode::Wanted;

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) decoded: Decoded,
    /// `triton_enable_empty_final_response`: the last reply says that it is.
    pub(super) marks_final: bool,
}

/// An input as the request declares it.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) datatype: DataType,
    pub(super) shape: Vec<usize>,
}

pub(super) fn declared(inputs: &[InferInputTensor]) -> Result<Vec<Declared>, Error> {
    let declare = |input: &InferInputTensor| {
        let name = &input.name;
        if input.parameters.keys().any(|key| key.starts_with("shared_memory_")) {
            return Err(shared_memory("input", name));
        }
        if input.shape.len() > MAX_DEPTH {
            return Err(Error::invalid(format!("input '{name}': a shape has at most {MAX_DEPTH} axes")));
        }
        let (datatype, shape) = decode::declared(name, &input.datatype, &input.shape)?;
        Ok(Declared { name: name.clone(), datatype, shape })
    };
    inputs.iter().map(declare).collect()
}

/// The tensors of the inputs: all raw, or all typed.
pub(super) fn inputs(
    request: &ModelInferRequest,
    declared: Vec<Declared>,
    raw: Vec<Buffer>,
    room: &mut dyn Room,
) -> Result<Vec<NamedTensor>, Error> {
    let mut raw = raw.into_iter();
    let nothing = InferTensorContents::default();
    let mut tensors = Vec::with_capacity(declared.len());
    for (input, Declared { name, datatype, shape }) in request.inputs.iter().zip(declared) {
        let data = match (raw.next(), &input.contents) {
            (Some(_), Some(_)) => {
                let text = format!("input '{name}' has contents, which raw_input_contents excludes");
                return Err(Error::invalid(text));
            }
            (Some(raw), None) => raw,
            (None, contents) => {
                contents::fill(&name, datatype, &shape, contents.as_ref().unwrap_or(&nothing), room)?
            }
        };
        tensors.push(decode::named(name, datatype, shape, data)?);
    }
    Ok(tensors)
}

pub(super) fn decode(request: ModelInferRequest, inputs: Vec<NamedTensor>) -> Result<Asked, Error> {
    let (wishes, marks_final) = wishes(request.parameters)?;
    let outputs = request.outputs.into_iter().map(output).collect::<Result<_, _>>()?;
    let id = Some(request.id).filter(|id| !id.is_empty());
    Ok(Asked { decoded: Decoded { inputs, wanted: Wanted::new(id, outputs), wishes }, marks_final })
}

fn output(output: InferRequestedOutputTensor) -> Result<(String, OutputParameters), Error> {
    let name = output.name;
    if output.parameters.keys().any(|key| key.starts_with("shared_memory_")) {
        return Err(shared_memory("output", &name));
    }
    let classes = output.parameters.get("classification").map(|value| unsigned("classification", value));
    let classification = usize::try_from(classes.transpose()?.unwrap_or(0)).unwrap_or(usize::MAX);
    Ok((name, OutputParameters { classification, ..OutputParameters::default() }))
}

/// The reserved parameters; others are the client's own and ignored.
fn wishes(parameters: HashMap<String, InferParameter>) -> Result<(Wishes, bool), Error> {
    let mut wishes = Wishes::default();
    let mut marks_final = false;
    for (key, value) in parameters {
        match key.as_str() {
            "timeout" => wishes.timeout_us = unsigned(&key, &value)?,
            "priority" => wishes.priority = unsigned(&key, &value)?,
            "sequence_start" => wishes.sequence_start = flag(&key, &value)?,
            "sequence_end" => wishes.sequence_end = flag(&key, &value)?,
            "sequence_id" => {
                let id = match value.parameter_choice {
                    Some(ParameterChoice::StringParam(text)) => SequenceId::Text(text),
                    choice => {
                        SequenceId::Number(unsigned(&key, &InferParameter { parameter_choice: choice })?)
                    }
                };
                wishes.sequence_id = sequence_id(id)?;
            }
            "triton_enable_empty_final_response" => marks_final = flag(&key, &value)?,
            key if key.starts_with("triton_") => return Err(Error::invalid(RESERVED)),
            _ => {}
        }
    }
    Ok((wishes, marks_final))
}

fn unsigned(key: &str, value: &InferParameter) -> Result<u64, Error> {
    let number = match value.parameter_choice {
        Some(ParameterChoice::Int64Param(value)) => u64::try_from(value).ok(),
        Some(ParameterChoice::Uint64Param(value)) => Some(value),
        _ => None,
    };
    number.ok_or_else(|| {
        Error::invalid(format!("parameter '{key}' is no int64_param or uint64_param from 0 on"))
    })
}

fn flag(key: &str, value: &InferParameter) -> Result<bool, Error> {
    match value.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Ok(value),
        _ => Err(Error::invalid(format!("parameter '{key}' is no bool_param"))),
    }
}

fn shared_memory(what: &str, name: &str) -> Error {
    Error::new(ErrorCode::Unsupported, format!("{what} '{name}': shared memory regions are not served"))
}

#[cfg(test)]
mod tests {
    use wire::Sequence;

    use super::*;

    fn parameters(pairs: &[(&str, ParameterChoice)]) -> HashMap<String, InferParameter> {
        let parameter = |choice: &ParameterChoice| InferParameter { parameter_choice: Some(choice.clone()) };
        pairs.iter().map(|(key, choice)| ((*key).to_owned(), parameter(choice))).collect()
    }

    #[test]
    fn parameters_come_in_the_types_that_clients_use() {
        let (wishes, marks_final) = wishes(parameters(&[
            ("priority", ParameterChoice::Uint64Param(3)),
            ("timeout", ParameterChoice::Int64Param(1500)),
            ("sequence_id", ParameterChoice::StringParam("a".to_owned())),
            ("sequence_start", ParameterChoice::BoolParam(true)),
            ("triton_enable_empty_final_response", ParameterChoice::BoolParam(true)),
            ("mine", ParameterChoice::DoubleParam(0.5)),
        ]))
        .unwrap();
        assert_eq!((wishes.priority, wishes.timeout_us, marks_final), (3, 1500, true));
        let id = SequenceId::Text("a".to_owned());
        assert_eq!(wishes.sequence(), Some(Sequence { id, start: true, end: false }));
    }

    #[test]
    fn parameters_of_another_type_are_refused() {
        let check = |key: &str, choice: ParameterChoice| {
            let refused = wishes(parameters(&[(key, choice.clone())]));
            assert_eq!(refused.unwrap_err().code, ErrorCode::InvalidArgument, "{key} {choice:?}");
        };
        check("priority", ParameterChoice::Int64Param(-1));
        check("timeout", ParameterChoice::StringParam("soon".to_owned()));
        check("sequence_id", ParameterChoice::Int64Param(-7));
        check("sequence_id", ParameterChoice::StringParam("x".repeat(129)));
        check("sequence_end", ParameterChoice::Int64Param(1));
        check("triton_other", ParameterChoice::BoolParam(true));
    }
}
