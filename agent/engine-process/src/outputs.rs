//! What a worker says about its outputs, against what was lent to it. Pure but for the reading of the memory that is
//! then a tensor.

use std::sync::Arc;

use engine::{ALIGNMENT, Buffer, DataType, Storage, Tensor, TensorSpec};

use crate::arena::Block;
use crate::frame::{At, FrameError, Output};
use crate::segment::Segment;

/// An output that is a tensor already, or is still held back.
#[derive(Debug)]
pub(crate) enum Taken {
    Here(Tensor),
    Held { datatype: DataType, shape: Vec<usize>, len: usize },
}

/// Checks the outputs of one run: as many members and outputs as asked for, each of the declared type, each in the
/// place lent for it or held back.
pub(crate) fn take(
    done: Vec<Vec<Output>>,
    members: usize,
    specs: &[TensorSpec],
    lent: &[Option<Arc<Block>>],
) -> Result<Vec<Vec<Taken>>, FrameError> {
    if done.len() != members {
        return Err(FrameError::Output { what: "not one row of outputs for each member" });
    }
    let take_member = |outputs: Vec<Output>| {
        if outputs.len() != specs.len() {
            return Err(FrameError::Output { what: "not all outputs of the model" });
        }
        let outputs = outputs.into_iter().zip(specs).zip(lent);
        outputs.map(|((output, spec), lent)| take_output(output, spec, lent.as_ref())).collect()
    };
    done.into_iter().map(take_member).collect()
}

fn take_output(output: Output, spec: &TensorSpec, lent: Option<&Arc<Block>>) -> Result<Taken, FrameError> {
    let Output { datatype, shape, at } = output;
    if datatype != spec.datatype {
        return Err(FrameError::Output { what: "another data type" });
    }
    match at {
        At::Held { len } => {
            if let Some(size) = datatype.size()
                && engine::element_count(&shape).ok().and_then(|count| count.checked_mul(size)) != Some(len)
            {
                return Err(FrameError::Output { what: "a length that is not the shape's" });
            }
            match len {
                0 => tensor(datatype, shape, Buffer::copy_from(&[])).map(Taken::Here),
                len => Ok(Taken::Held { datatype, shape, len }),
            }
        }
        At::Lent(span) => {
            let outside = FrameError::Output { what: "a place that was not lent for it" };
            let buffer = match lent {
                _ if span.len == 0 => Buffer::copy_from(&[]),
                Some(block) if span.segment == 0 => {
                    let from = span.offset.checked_sub(block.range().start).ok_or(outside.clone())?;
                    let upto = from.checked_add(span.len).ok_or(outside.clone())?;
                    let storage = Arc::clone(block) as Arc<dyn Storage>;
                    Buffer::from_storage(storage).slice(from..upto).ok_or(outside)?
                }
                _ => return Err(outside),
            };
            tensor(datatype, shape, buffer).map(Taken::Here)
        }
    }
}

/// BYTES are copied before their framing is checked: the worker can still write where they lie, and what was checked
/// must be what is walked later. For every other type any bytes are values, and no length is ever read from them.
pub(crate) fn tensor(datatype: DataType, shape: Vec<usize>, buffer: Buffer) -> Result<Tensor, FrameError> {
    let buffer = if datatype == DataType::Bytes { Buffer::copy_from(buffer.bytes()) } else { buffer };
    Tensor::new(datatype, shape, buffer)
        .map_err(|_| FrameError::Output { what: "bytes that are not the shape's" })
}

/// Bytes of memory for all that is held back; `None` when no memory could be that large.
pub(crate) fn held_bytes(taken: &[Vec<Taken>]) -> Option<usize> {
    let lengths = taken.iter().flatten().filter_map(|output| match output {
        Taken::Held { len, .. } => Some(*len),
        Taken::Here(_) => None,
    });
    lengths
        .into_iter()
        .try_fold(0_usize, |total, len| total.checked_add(len.checked_next_multiple_of(ALIGNMENT)?))
}

/// Completes the outputs with what was fetched into `memory`.
pub(crate) fn complete(
    taken: Vec<Vec<Taken>>,
    memory: Option<Segment>,
) -> Result<Vec<Vec<Tensor>>, FrameError> {
    let storage = memory.map(|segment| Buffer::from_storage(Arc::new(Fetched(segment))));
    let mut next = 0_usize;
    let mut finish = |taken: Taken| match taken {
        Taken::Here(tensor) => Ok(tensor),
        Taken::Held { datatype, shape, len } => {
            let missing = FrameError::Output { what: "less than was held back" };
            let from = next;
            next += len.next_multiple_of(ALIGNMENT);
            let buffer = storage.as_ref().and_then(|all| all.slice(from..from + len)).ok_or(missing)?;
            tensor(datatype, shape, buffer)
        }
    };
    taken.into_iter().map(|member| member.into_iter().map(&mut finish).collect()).collect()
}

/// Memory for one fetch, unmapped with the last tensor in it.
struct Fetched(Segment);

impl Storage for Fetched {
    fn bytes(&self) -> &[u8] {
        self.0.bytes(0..self.0.len()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use engine::Dim;

    use super::*;
    use crate::arena::Arena;
    use crate::frame::Span;

    const BYTES: usize = 32;

    fn spec(datatype: DataType) -> TensorSpec {
        TensorSpec { name: "y".to_owned(), datatype, shape: vec![Dim::Dynamic(None)] }
    }

    fn lent(arena: &Arc<Arena>) -> Arc<Block> {
        Arc::new(arena.lend(BYTES).unwrap())
    }

    fn output(shape: &[usize], at: At) -> Output {
        Output { datatype: DataType::Fp32, shape: shape.to_vec(), at }
    }

    #[test]
    fn a_worker_that_lies_about_its_outputs_is_caught() {
        let arena = Arc::new(Arena::new(4096).unwrap());
        let _another_requests = lent(&arena);
        let block = lent(&arena);
        let start = block.range().start;
        assert!(start >= BYTES, "something lies before it");
        let at = |segment: u8, offset: usize, len: usize| At::Lent(Span { segment, offset, len });
        let check = |what: &str, output: Output, ok: bool| {
            let taken = take(vec![vec![output]], 1, &[spec(DataType::Fp32)], &[Some(Arc::clone(&block))]);
            assert_eq!(taken.is_ok(), ok, "{what}: {taken:?}");
        };
        check("the whole place", output(&[8], at(0, start, 32)), true);
        check("a part of it", output(&[2], at(0, start + 16, 8)), true);
        check("nothing, anywhere", output(&[0], at(9, usize::MAX, 0)), true);
        check("before it", output(&[8], at(0, start - 4, 32)), false);
        check("behind it", output(&[8], at(0, start + 4, 32)), false);
        check("another request's", output(&[8], at(0, 0, 32)), false);
        check("the end of memory", output(&[8], at(0, usize::MAX, 32)), false);
        check("a length beyond all", output(&[8], at(0, start, usize::MAX)), false);
        check("another segment", output(&[8], at(1, start, 32)), false);
        check("fewer bytes than the shape", output(&[8], at(0, start, 28)), false);
        check("a shape beyond all", output(&[usize::MAX, 8], at(0, start, 32)), false);
        check("held back", output(&[8], At::Held { len: 32 }), true);
        check("held back, another length", output(&[8], At::Held { len: 33 }), false);
        check("held back, nothing", output(&[0], At::Held { len: 0 }), true);
        check("held back, a shape beyond all", output(&[usize::MAX], At::Held { len: 0 }), false);
        let int = Output { datatype: DataType::Int32, ..output(&[8], at(0, start, 32)) };
        check("another type", int, false);

        let specs = [spec(DataType::Fp32)];
        let row = || vec![output(&[8], At::Held { len: 32 })];
        for (what, done) in [
            ("no member", vec![]),
            ("two members", vec![row(), row()]),
            ("no output", vec![vec![]]),
            ("two outputs", vec![[row(), row()].concat()]),
        ] {
            assert!(take(done, 1, &specs, &[None]).is_err(), "{what}");
        }
        let unlent = output(&[8], at(0, start, 32));
        assert!(take(vec![vec![unlent]], 1, &specs, &[None]).is_err(), "a place that was never lent");
    }

    #[test]
    fn bytes_are_checked_where_the_worker_cannot_write() {
        let arena = Arc::new(Arena::new(4096).unwrap());
        let mut block = arena.lend(6).unwrap();
        block.bytes_mut().copy_from_slice(b"\x02\0\0\0ab");
        let block = Arc::new(block);
        let at = At::Lent(Span { segment: 0, offset: block.range().start, len: 6 });
        let output = Output { datatype: DataType::Bytes, shape: vec![1], at };
        let taken = take(vec![vec![output]], 1, &[spec(DataType::Bytes)], &[Some(block)]).unwrap();
        let Some(Taken::Here(tensor)) = taken.into_iter().flatten().next() else { panic!("held") };
        assert!(arena.offset_of(tensor.data().bytes()).is_none());
        assert_eq!(tensor.byte_elements().collect::<Vec<_>>(), [b"ab"]);
    }

    #[test]
    fn what_cannot_be_held_is_not_fetched() {
        let held = |len| Taken::Held { datatype: DataType::Bytes, shape: vec![1], len };
        assert_eq!(held_bytes(&[vec![held(1)], vec![held(64), held(65)]]), Some(64 + 64 + 128));
        assert_eq!(held_bytes(&[vec![held(usize::MAX)]]), None);
        assert_eq!(held_bytes(&[vec![held(usize::MAX - 64), held(64)]]), None);
        assert!(complete(vec![vec![held(1)]], None).is_err());
    }
}
