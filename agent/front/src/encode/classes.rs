//! Triton's classification extension: the highest values of an output as texts `value:index[:label]`.

use std::cmp::Ordering;
use std::fmt::Display;

use engine::{Buffer, DataType, Tensor, element_count};
use wire::Error;

use super::{Context, elements};

/// As in Triton: sorting more per request is not worth it.
const MAX_ELEMENTS: usize = 1_000_000;

/// BYTES `[batch, k]`, or `[k]` for a model that does not batch. `k` is at most the number of values.
pub(super) fn top(name: &str, tensor: &Tensor, count: usize, context: Context<'_>) -> Result<Tensor, Error> {
    match tensor.datatype() {
        DataType::Uint8 => classes(name, tensor, count, context, u8::from_le_bytes, Ord::cmp, text),
        DataType::Uint16 => classes(name, tensor, count, context, u16::from_le_bytes, Ord::cmp, text),
        DataType::Uint32 => classes(name, tensor, count, context, u32::from_le_bytes, Ord::cmp, text),
        DataType::Uint64 => classes(name, tensor, count, context, u64::from_le_bytes, Ord::cmp, text),
        DataType::Int8 => classes(name, tensor, count, context, i8::from_le_bytes, Ord::cmp, text),
        DataType::Int16 => classes(name, tensor, count, context, i16::from_le_bytes, Ord::cmp, text),
        DataType::Int32 => classes(name, tensor, count, context, i32::from_le_bytes, Ord::cmp, text),
        DataType::Int64 => classes(name, tensor, count, context, i64::from_le_bytes, Ord::cmp, text),
        DataType::Fp32 => {
            classes(name, tensor, count, context, f32::from_le_bytes, f32::total_cmp, |value| {
                format!("{value:.6}")
            })
        }
        DataType::Fp64 => {
            classes(name, tensor, count, context, f64::from_le_bytes, f64::total_cmp, |value| {
                format!("{value:.6}")
            })
        }
        DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes => Err(Error::invalid(format!(
            "class result not available for output due to unsupported type '{}'",
            tensor.datatype()
        ))),
    }
}

fn text<T: Display>(value: T) -> String {
    value.to_string()
}

fn classes<const SIZE: usize, T: Copy>(
    name: &str,
    tensor: &Tensor,
    count: usize,
    context: Context<'_>,
    value: fn([u8; SIZE]) -> T,
    order: fn(&T, &T) -> Ordering,
    text: fn(T) -> String,
) -> Result<Tensor, Error> {
    let batches = context.batches && !tensor.shape().is_empty();
    let axes = if batches { tensor.shape().get(1..).unwrap_or_default() } else { tensor.shape() };
    let invalid = |error: engine::TensorError| Error::invalid(format!("output '{name}': {error}"));
    let row = element_count(axes).map_err(invalid)?;
    if row > MAX_ELEMENTS {
        return Err(Error::invalid("classification output tensor too large"));
    }
    let count = count.min(row);
    let values: Vec<T> = elements(tensor, value).collect();
    let labels = context.labels.get(name);
    let mut frames = Vec::new();
    for values in values.chunks(row.max(1)) {
        let mut ranked: Vec<(usize, T)> = values.iter().copied().enumerate().collect();
        // Equal values by index, so that the answer is the same every time.
        let descending = |a: &(usize, T), b: &(usize, T)| order(&b.1, &a.1).then(a.0.cmp(&b.0));
        if count < ranked.len() {
            ranked.select_nth_unstable_by(count, descending);
            ranked.truncate(count);
        }
        ranked.sort_unstable_by(descending);
        for (index, value) in ranked {
            let mut class = format!("{}:{index}", text(value));
            if let Some(label) = labels.and_then(|labels| labels.get(index)) {
                class.push(':');
                class.push_str(label);
            }
            let length = u32::try_from(class.len()).map_err(|_| Error::invalid("a label is over 4 GiB"))?;
            frames.extend_from_slice(&length.to_le_bytes());
            frames.extend_from_slice(class.as_bytes());
        }
    }
    let shape = if batches { vec![tensor.rows(), count] } else { vec![count] };
    Tensor::new(DataType::Bytes, shape, Buffer::copy_from(&frames)).map_err(invalid)
}
