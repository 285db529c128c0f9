//! The v2 infer reply, from tensors to bytes. Knows no HTTP.

mod classes;
mod json;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use engine::{Buffer, DataType, Tensor};
use wire::{Error, NamedTensor, Part};

use crate::app::Classes;
use crate::decode::{Head, OutputHead, OutputParameters};

/// Tensors up to this many bytes are copied behind the JSON, so that a small reply is one piece of memory and
/// one write; larger ones are sent from where the engine left them.
pub(crate) const COPY_BELOW: usize = 16 << 10;

/// A reply, ready to send.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) frames: Vec<Bytes>,
    /// The bytes of the JSON when tensors follow it, for `Inference-Header-Content-Length`.
    pub(crate) header_length: Option<usize>,
}

/// What the client asked for, kept while the request runs.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    id: Option<String>,
    /// Whether outputs that say nothing else come in binary.
    binary: bool,
    outputs: Vec<(String, OutputParameters)>,
}

impl Wanted {
    pub(crate) fn new(id: Option<String>, outputs: Vec<(String, OutputParameters)>) -> Self {
        Self { id, binary: true, outputs }
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(crate) fn of(head: &Head<'_>) -> Self {
        let output = |output: &OutputHead<'_>| (output.name.clone().into_owned(), output.parameters);
        Self {
            id: head.id.as_deref().map(str::to_owned),
            binary: head.parameters.binary_data_output,
            outputs: head.outputs.iter().map(output).collect(),
        }
    }

    /// Of a request without JSON: everything, in binary.
    pub(crate) fn raw() -> Self {
        Self { binary: true, ..Self::default() }
    }

    /// Names of the outputs; empty for all.
    pub(crate) fn names(&self) -> Vec<String> {
        self.outputs.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The outputs that are wanted as classes, which need the model's labels.
    pub(crate) fn classified(&self) -> impl Iterator<Item = &str> {
        let classified = self.outputs.iter().filter(|(_, parameters)| parameters.classification > 0);
        classified.map(|(name, _)| name.as_str())
    }

    fn output(&self, name: &str) -> OutputParameters {
        let output = self.outputs.iter().find(|(wanted, _)| wanted == name);
        output.map(|(_, parameters)| *parameters).unwrap_or_default()
    }
}

/// What a reply says besides its outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) model: &'a str,
    /// Whether the first axis is the batch, so that classes are found row by row.
    pub(crate) batches: bool,
    pub(crate) labels: &'a Classes,
}

/// Where the time of a reply went and how large its batch was, by the keys of the reply's parameters.
pub(crate) fn numbers(part: &Part) -> [(&'static str, u64); 4] {
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let timings = part.timings;
    [
        ("mast_queue_us", us(timings.queue)),
        ("mast_batch_us", us(timings.batch)),
        ("mast_compute_us", us(timings.compute)),
        ("mast_batch_rows", u64::try_from(timings.batch_rows).unwrap_or(u64::MAX)),
    ]
}

/// The outputs as the client wants them: tensors, or classes.
///
/// # Errors
/// `InvalidArgument` where an output has no classes.
pub(crate) fn outputs<'a>(
    part: &'a Part,
    wanted: &Wanted,
    context: Context<'_>,
) -> Result<Vec<(&'a str, Cow<'a, Tensor>)>, Error> {
    let output = |NamedTensor { name, tensor }: &'a NamedTensor| {
        let tensor = match wanted.output(name).classification {
            0 => Cow::Borrowed(tensor),
            count => Cow::Owned(classes::top(name, tensor, count, context)?),
        };
        Ok((name.as_str(), tensor))
    };
    part.outputs.iter().map(output).collect()
}

/// # Errors
/// `InvalidArgument` where an output cannot be had in the form that was asked for.
pub(crate) fn reply(part: &Part, wanted: &Wanted, context: Context<'_>) -> Result<Encoded, Error> {
    let mut json = Vec::with_capacity(512);
    json::preamble(&mut json, wanted.id(), context.model, part);
    let mut tensors: Vec<Buffer> = Vec::new();
    let mut any_binary = false;
    for (index, (name, tensor)) in outputs(part, wanted, context)?.into_iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json::output_head(&mut json, name, &tensor);
        if wanted.output(name).binary_data.unwrap_or(wanted.binary) {
            json::binary_size(&mut json, tensor.data().len());
            any_binary |= !tensor.data().is_empty();
            tensors.push(tensor.data().clone());
        } else {
            json::data(&mut json, name, &tensor)?;
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    let header_length = any_binary.then_some(json.len());
    Ok(Encoded { frames: frames(json, tensors), header_length })
}

fn frames(mut json: Vec<u8>, tensors: Vec<Buffer>) -> Vec<Bytes> {
    let total: usize = tensors.iter().map(Buffer::len).sum();
    if total <= COPY_BELOW {
        for tensor in &tensors {
            json.extend_from_slice(tensor.bytes());
        }
        return vec![json.into()];
    }
    let tensors = tensors.into_iter().filter(|tensor| !tensor.is_empty());
    std::iter::once(json.into()).chain(tensors.map(|tensor| Bytes::from_owner(Shared(tensor)))).collect()
}

/// Keeps the engine's memory while it is being sent.
pub(crate) struct Shared(pub(crate) Buffer);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// The elements of a tensor of one type, in order.
fn elements<const SIZE: usize, T>(tensor: &Tensor, value: fn([u8; SIZE]) -> T) -> impl Iterator<Item = T> {
    let (chunks, _) = tensor.data().bytes().as_chunks::<SIZE>();
    chunks.iter().map(move |chunk| value(*chunk))
}

fn no_json_form(name: &str, datatype: DataType, why: &str) -> Error {
    Error::invalid(format!(
        "output '{name}': {datatype} {why}; ask for it with the binary extension (binary_data)"
    ))
}

/// A request whose one input is `tensor` in JSON: what a client sends is what [`reply`] writes, input for output.
#[cfg(test)]
pub(crate) fn test_request(tensor: &Tensor) -> Vec<u8> {
    let mut json = b"{\"inputs\":[".to_vec();
    json::output_head(&mut json, "x", tensor);
    json::data(&mut json, "x", tensor).expect("has a JSON form");
    json.extend_from_slice(b"}]}");
    json
}
