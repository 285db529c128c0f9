//! Typed contents (`InferTensorContents`), which carry small types in wider ones.

use engine::{Buffer, DataType, element_count};
use triton::InferTensorContents;
use wire::Error;

use crate::decode::{Room, byte_size};

/// Writes the elements of an input straight into the tensor's memory.
pub(super) fn fill(
    name: &str,
    datatype: DataType,
    shape: &[usize],
    contents: &InferTensorContents,
    room: &mut dyn Room,
) -> Result<Buffer, Error> {
    let list = List { name, datatype, shape };
    let c = contents;
    match datatype {
        DataType::Bool => list.write(&c.bool_contents, room, |value| Some([u8::from(*value)])),
        DataType::Int8 => list.write(&c.int_contents, room, |v| i8::try_from(*v).ok().map(i8::to_le_bytes)),
        DataType::Int16 => {
            list.write(&c.int_contents, room, |v| i16::try_from(*v).ok().map(i16::to_le_bytes))
        }
        DataType::Int32 => list.write(&c.int_contents, room, |v| Some(v.to_le_bytes())),
        DataType::Int64 => list.write(&c.int64_contents, room, |v| Some(v.to_le_bytes())),
        DataType::Uint8 => list.write(&c.uint_contents, room, |v| u8::try_from(*v).ok().map(u8::to_le_bytes)),
        DataType::Uint16 => {
            list.write(&c.uint_contents, room, |v| u16::try_from(*v).ok().map(u16::to_le_bytes))
        }
        DataType::Uint32 => list.write(&c.uint_contents, room, |v| Some(v.to_le_bytes())),
        DataType::Uint64 => list.write(&c.uint64_contents, room, |v| Some(v.to_le_bytes())),
        DataType::Fp32 => list.write(&c.fp32_contents, room, |v| Some(v.to_le_bytes())),
        DataType::Fp64 => list.write(&c.fp64_contents, room, |v| Some(v.to_le_bytes())),
        DataType::Bytes => list.frame(&c.bytes_contents, room),
        DataType::Fp16 | DataType::Bf16 => Err(Error::invalid(format!(
            "input '{name}': {datatype} has no typed contents; send it in raw_input_contents"
        ))),
    }
}

struct List<'a> {
    name: &'a str,
    datatype: DataType,
    shape: &'a [usize],
}

impl List<'_> {
    fn write<T, const SIZE: usize>(
        &self,
        values: &[T],
        room: &mut dyn Room,
        bytes: impl Fn(&T) -> Option<[u8; SIZE]>,
    ) -> Result<Buffer, Error> {
        self.check(values.len())?;
        let mut buffer = room.take(byte_size(self.name, self.datatype, self.shape)?.unwrap_or_default())?;
        for (index, (place, value)) in buffer.bytes_mut().chunks_exact_mut(SIZE).zip(values).enumerate() {
            // The value itself is the client's payload and stays out of messages.
            let value = bytes(value).ok_or_else(|| {
                let Self { name, datatype, .. } = self;
                Error::invalid(format!("input '{name}': element {index} of contents is no {datatype}"))
            })?;
            place.copy_from_slice(&value);
        }
        Ok(buffer.freeze())
    }

    /// BYTES: each element behind its length.
    fn frame(&self, values: &[Vec<u8>], room: &mut dyn Room) -> Result<Buffer, Error> {
        self.check(values.len())?;
        let mut buffer = room.take(values.iter().map(|value| 4 + value.len()).sum())?;
        let mut rest = buffer.bytes_mut();
        for value in values {
            let length =
                u32::try_from(value.len()).map_err(|_| Error::invalid("an element is over 4 GiB"))?;
            let (place, after) = rest.split_at_mut(4 + value.len());
            let (prefix, element) = place.split_at_mut(4);
            prefix.copy_from_slice(&length.to_le_bytes());
            element.copy_from_slice(value);
            rest = after;
        }
        Ok(buffer.freeze())
    }

    fn check(&self, got: usize) -> Result<(), Error> {
        let Self { name, datatype, shape } = self;
        let expected = element_count(shape)
            .map_err(|_| Error::invalid(format!("input '{name}': the shape {shape:?} is too large")))?;
        if got == expected {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "input '{name}': {datatype} {shape:?} needs {expected} elements, its contents have {got}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use engine::BufferMut;

    use super::*;

    struct Heap;

    impl Room for Heap {
        fn take(&mut self, bytes: usize) -> Result<BufferMut, Error> {
            Ok(BufferMut::heap(bytes))
        }
    }

    #[test]
    fn every_type_has_its_list() {
        let contents = InferTensorContents {
            bool_contents: vec![true, false],
            int_contents: vec![-1, 2],
            int64_contents: vec![-3, 4],
            uint_contents: vec![5, 6],
            uint64_contents: vec![7, 8],
            fp32_contents: vec![0.5, -0.5],
            fp64_contents: vec![1.5, -1.5],
            bytes_contents: vec![b"ab".to_vec(), Vec::new()],
        };
        let check = |datatype, expected: &[u8]| {
            let data = fill("x", datatype, &[2], &contents, &mut Heap).unwrap();
            assert_eq!(data.bytes(), expected, "{datatype}");
            assert!(fill("x", datatype, &[3], &contents, &mut Heap).is_err(), "{datatype} of three");
            assert!(fill("x", datatype, &[usize::MAX, 2], &contents, &mut Heap).is_err());
        };
        check(DataType::Bool, &[1, 0]);
        check(DataType::Int8, &[255, 2]);
        check(DataType::Int16, &[255, 255, 2, 0]);
        check(DataType::Int32, &[255, 255, 255, 255, 2, 0, 0, 0]);
        check(DataType::Int64, &[(-3_i64).to_le_bytes(), 4_i64.to_le_bytes()].concat());
        check(DataType::Uint8, &[5, 6]);
        check(DataType::Uint16, &[5, 0, 6, 0]);
        check(DataType::Uint32, &[5, 0, 0, 0, 6, 0, 0, 0]);
        check(DataType::Uint64, &[7_u64.to_le_bytes(), 8_u64.to_le_bytes()].concat());
        check(DataType::Fp32, &[0.5_f32.to_le_bytes(), (-0.5_f32).to_le_bytes()].concat());
        check(DataType::Fp64, &[1.5_f64.to_le_bytes(), (-1.5_f64).to_le_bytes()].concat());
        check(DataType::Bytes, b"\x02\0\0\0ab\0\0\0\0");
    }

    #[test]
    fn what_does_not_fit_its_type_is_refused() {
        let check = |datatype, contents: InferTensorContents| {
            assert!(fill("x", datatype, &[1], &contents, &mut Heap).is_err(), "{datatype} {contents:?}");
        };
        check(DataType::Int8, InferTensorContents { int_contents: vec![128], ..Default::default() });
        check(DataType::Uint16, InferTensorContents { uint_contents: vec![65536], ..Default::default() });
        check(DataType::Fp16, InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
        check(DataType::Fp64, InferTensorContents { fp32_contents: vec![1.0], ..Default::default() });
    }
}
