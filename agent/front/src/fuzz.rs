//! Ways in for the fuzz targets of `tests/fuzz`, which cannot see what is private here. Not built otherwise.

use std::time::Duration;

use engine::{Buffer, BufferMut, Device, Provider};
use wire::{Error, NamedTensor, Part, Ran, Timings};

use crate::decode::{self, Head, Room, Source};
use crate::encode::{self, Context, Encoded, Wanted};
use crate::grpc;

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

/// Decodes a request, and where it is one answers it with its own inputs, decodes that and compares.
///
/// The JSON ends at the first NUL byte, which JSON cannot hold; the raw tensors follow. `None`: it is no request.
///
/// # Panics
/// When the memory taken is out of proportion to the request, or the answer reads back as something else.
pub fn infer(data: &[u8]) -> Option<()> {
    let (json, raw) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &data[data.len()..]),
    };
    let head = decode::head(json).ok()?;
    let inputs = tensors(&head, json, raw)?;
    let answered = answer(&head, &inputs)?;
    let Encoded { frames, header_length } = answered;
    let body = frames.concat();
    let (json, raw) = body.split_at(header_length.unwrap_or(body.len()));
    // A reply names its tensors as a request does, under another key. Inside a text the quotes would be escaped.
    let json = String::from_utf8(json.to_vec()).expect("a reply is UTF-8");
    let json = json.replacen("\"outputs\":[", "\"inputs\":[", 1);
    let head = decode::head(json.as_bytes()).unwrap_or_else(|error| panic!("{error}: {json}"));
    let again = tensors(&head, json.as_bytes(), raw).unwrap_or_else(|| panic!("unreadable: {json}"));
    assert_eq!(inputs.len(), again.len(), "{json}");
    for (one, other) in inputs.iter().zip(&again) {
        assert_eq!(one.name, other.name, "{json}");
        assert_eq!(one.tensor.datatype(), other.tensor.datatype(), "{json}");
        assert_eq!(one.tensor.shape(), other.tensor.shape(), "{json}");
        assert_eq!(one.tensor.data().bytes(), other.tensor.data().bytes(), "{json}");
    }
    Some(())
}

/// Decodes a ModelInferRequest of the gRPC front.
///
/// # Panics
/// When the memory taken is out of proportion to the request.
pub fn grpc(data: &[u8]) -> Option<()> {
    let mut heap = Heap::default();
    let read = grpc::fuzz::infer(data, &mut heap);
    // A varint of one byte becomes an element of eight.
    assert!(heap.taken <= 8 * data.len() + 64, "{} bytes of memory for {}", heap.taken, data.len());
    read
}

fn tensors(head: &Head<'_>, json: &[u8], mut raw: &[u8]) -> Option<Vec<NamedTensor>> {
    let mut heap = Heap::default();
    let mut tensors = Vec::with_capacity(head.inputs.len());
    for input in &head.inputs {
        tensors.push(match input.source {
            Source::Json(text) => decode::json_tensor(input, text, &mut heap).ok()?,
            Source::Binary(size) => {
                let (bytes, rest) = raw.split_at_checked(size)?;
                raw = rest;
                decode::tensor(input, Buffer::copy_from(bytes)).ok()?
            }
        });
    }
    let limit = 4 * json.len() + 8;
    assert!(heap.taken <= limit, "{} bytes of memory for {} of JSON", heap.taken, json.len());
    raw.is_empty().then_some(tensors)
}

/// `None` where an output cannot be had in the form that was asked for.
fn answer(head: &Head<'_>, inputs: &[NamedTensor]) -> Option<Encoded> {
    let wanted = Wanted::of(head);
    if wanted.classified().next().is_some() {
        return None;
    }
    let part = Part {
        outputs: inputs.to_vec(),
        model_version: 1,
        ran: Ran { provider: Provider::Cpu, device: Device { id: "cpu".to_owned(), name: String::new() } },
        timings: Timings { queue: Duration::from_micros(1), ..Timings::default() },
    };
    encode::reply(&part, &wanted, Context { model: "m", batches: false, labels: &Default::default() }).ok()
}
