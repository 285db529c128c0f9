use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use engine::DataType;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use wire::Error;

use super::data::MAX_DEPTH;
use super::{OutputParameters, RequestParameters, byte_size};
use crate::decode::parameters::InputParameters;
use crate::json::Object;

/// Inputs, and outputs, that a request may name; no model has that many.
pub(crate) const MAX_TENSORS: usize = 4096;

/// What the JSON of a request says, before any tensor exists. Borrows from the JSON.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) id: Option<Cow<'a, str>>,
    pub(crate) parameters: RequestParameters,
    pub(crate) inputs: Vec<InputHead<'a>>,
    pub(crate) outputs: Vec<OutputHead<'a>>,
}

#[derive(Debug)]
pub(crate) struct InputHead<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) datatype: DataType,
    pub(crate) shape: Vec<usize>,
    pub(crate) source: Source<'a>,
}

/// Where an input's elements are.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// In the JSON: its `data`, already known to be well-formed.
    Json(&'a str),
    /// So many bytes after the JSON, in the order of the inputs.
    Binary(usize),
}

#[derive(Debug)]
pub(crate) struct OutputHead<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) parameters: OutputParameters,
}

#[derive(Deserialize)]
struct RawHead<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(default)]
    parameters: RequestParameters,
    #[serde(borrow, deserialize_with = "at_most::<MAX_TENSORS, _, _>")]
    inputs: Vec<Object<RawInput<'a>>>,
    #[serde(borrow, default, deserialize_with = "at_most::<MAX_TENSORS, _, _>")]
    outputs: Vec<Object<RawOutput<'a>>>,
}

#[derive(Deserialize)]
struct RawInput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(deserialize_with = "at_most::<MAX_DEPTH, _, _>")]
    shape: Vec<i64>,
    #[serde(default)]
    parameters: InputParameters,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: OutputParameters,
}

/// A list of `MAX` elements at most: what it costs in memory is many times its text, and no budget counts it.
fn at_most<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(List::<MAX, T>(PhantomData))
}

struct List<const MAX: usize, T>(PhantomData<T>);

impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for List<MAX, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() == MAX {
                return Err(de::Error::invalid_length(MAX + 1, &self));
            }
            list.push(element);
        }
        Ok(list)
    }
}

/// Reads the JSON of a request. Allocates for names and shapes only.
pub(crate) fn head(json: &[u8]) -> Result<Head<'_>, Error> {
    let Object(raw): Object<RawHead<'_>> = serde_json::from_slice(json)
        .map_err(|error| Error::invalid(format!("failed to parse the request JSON buffer: {error}")))?;
    raw.parameters.check()?;
    let inputs = raw.inputs.into_iter().map(input).collect::<Result<_, _>>()?;
    let outputs = raw.outputs.into_iter().map(output).collect::<Result<_, _>>()?;
    Ok(Head { id: raw.id, parameters: raw.parameters, inputs, outputs })
}

/// An input's data type and shape, in the words of the v2 protocol.
pub(crate) fn declared(name: &str, datatype: &str, shape: &[i64]) -> Result<(DataType, Vec<usize>), Error> {
    let parsed = datatype.parse().map_err(|_| {
        Error::invalid(format!("input '{name}': '{datatype}' is not a data type of the v2 protocol"))
    })?;
    let dim = |dim: &i64| usize::try_from(*dim).ok();
    let dims = shape.iter().map(dim).collect::<Option<_>>().ok_or_else(|| {
        Error::invalid(format!("input '{name}': the shape {shape:?} of a request has no negative size"))
    })?;
    Ok((parsed, dims))
}

fn input(Object(raw): Object<RawInput<'_>>) -> Result<InputHead<'_>, Error> {
    let name = &raw.name;
    let (datatype, shape) = declared(name, &raw.datatype, &raw.shape)?;
    let expected = byte_size(name, datatype, &shape)?;
    if raw.parameters.shared_memory {
        return Err(unsupported(format!("input '{name}': shared memory regions are not served")));
    }
    let source = match (raw.data, raw.parameters.binary_data_size) {
        (Some(data), None) => Source::Json(data.get()),
        (None, Some(size)) => {
            if expected.is_some_and(|expected| expected != size) {
                return Err(Error::invalid(format!(
                    "input '{name}': {datatype} {shape:?} needs {} bytes, binary_data_size is {size}",
                    expected.unwrap_or_default()
                )));
            }
            Source::Binary(size)
        }
        (Some(_), Some(_)) => {
            return Err(Error::invalid(format!("input '{name}' has both data and binary_data_size")));
        }
        (None, None) => {
            return Err(Error::invalid(format!("input '{name}' has neither data nor binary_data_size")));
        }
    };
    Ok(InputHead { name: raw.name, datatype, shape, source })
}

fn output(Object(raw): Object<RawOutput<'_>>) -> Result<OutputHead<'_>, Error> {
    if raw.parameters.shared_memory {
        return Err(unsupported(format!("output '{}': shared memory regions are not served", raw.name)));
    }
    Ok(OutputHead { name: raw.name, parameters: raw.parameters })
}

fn unsupported(message: String) -> Error {
    Error::new(wire::ErrorCode::Unsupported, message)
}
