//! The v2 infer request, from bytes to tensors. Knows no HTTP: the header bytes and the tensors' bytes come from
//! the caller, memory comes from [`Room`].
//!
//! Sources: KServe open inference protocol v2 ("Inference Request JSON Object") and Triton's extensions
//! `binary_tensor_data`, `parameters` and `classification`; what differs is in docs/specs/wire.md.

mod data;
mod head;
mod number;
mod parameters;
#[cfg(test)]
mod tests;

use engine::{Buffer, BufferMut, DataType, Tensor, element_count};
use wire::{Error, NamedTensor};

pub(crate) use data::MAX_DEPTH;
pub(crate) use head::{Head, InputHead, MAX_TENSORS, OutputHead, Source, declared, head};
use parameters::RequestParameters;
pub(crate) use parameters::{OutputParameters, RESERVED, Wishes, sequence_id};

/// Where the memory of tensors comes from; the byte budget behind it may refuse.
pub(crate) trait Room {
    fn take(&mut self, bytes: usize) -> Result<BufferMut, Error>;
}

/// The bytes a fixed-size tensor of this shape has; `None` for BYTES.
pub(crate) fn byte_size(name: &str, datatype: DataType, shape: &[usize]) -> Result<Option<usize>, Error> {
    let overflow = || Error::invalid(format!("input '{name}': the shape {shape:?} is too large"));
    let elements = element_count(shape).map_err(|_| overflow())?;
    datatype.size().map(|size| elements.checked_mul(size).ok_or_else(overflow)).transpose()
}

/// The tensor of an input whose elements stand in the JSON.
pub(crate) fn json_tensor(
    input: &InputHead<'_>,
    raw: &str,
    room: &mut dyn Room,
) -> Result<NamedTensor, Error> {
    let data = data::fill(input, raw, room)?;
    tensor(input, data)
}

/// The tensor of an input whose bytes have been read into `data`.
pub(crate) fn tensor(input: &InputHead<'_>, data: Buffer) -> Result<NamedTensor, Error> {
    named(input.name.clone().into_owned(), input.datatype, input.shape.clone(), data)
}

/// The tensor of these bytes, if they are one.
pub(crate) fn named(
    name: String,
    datatype: DataType,
    shape: Vec<usize>,
    data: Buffer,
) -> Result<NamedTensor, Error> {
    if datatype == DataType::Bool && data.bytes().iter().any(|byte| *byte > 1) {
        return Err(Error::invalid(format!("input '{name}': a BOOL byte is 0 or 1")));
    }
    let tensor = Tensor::new(datatype, shape, data)
        .map_err(|error| Error::invalid(format!("input '{name}': {error}")))?;
    Ok(NamedTensor { name, tensor })
}
