use crate::{Buffer, DataType};

/// A dense row-major tensor, little-endian. BYTES elements are framed as [`DataType::Bytes`] says.
#[derive(Debug, Clone)]
pub struct Tensor {
    datatype: DataType,
    shape: Vec<usize>,
    data: Buffer,
}

/// Why bytes, shape and data type do not make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("the shape {shape:?} has more elements than memory can address")]
    ShapeOverflow { shape: Vec<usize> },
    #[error("{datatype} {shape:?} needs {expected} bytes, got {got}")]
    Size { datatype: DataType, shape: Vec<usize>, expected: usize, got: usize },
    #[error("BYTES {shape:?} needs {expected} length-prefixed elements, the data frames {got}")]
    Framing { shape: Vec<usize>, expected: usize, got: usize },
}

impl Tensor {
    /// Checks that `data` holds exactly the elements of `shape`.
    pub fn new(datatype: DataType, shape: Vec<usize>, data: Buffer) -> Result<Self, TensorError> {
        let elements = element_count(&shape)?;
        match datatype.size() {
            Some(size) => {
                let expected = elements
                    .checked_mul(size)
                    .ok_or_else(|| TensorError::ShapeOverflow { shape: shape.clone() })?;
                if expected != data.len() {
                    return Err(TensorError::Size { datatype, shape, expected, got: data.len() });
                }
            }
            None => match count_frames(data.bytes(), elements) {
                Ok(()) => {}
                Err(got) => return Err(TensorError::Framing { shape, expected: elements, got }),
            },
        }
        Ok(Self { datatype, shape, data })
    }

    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub fn data(&self) -> &Buffer {
        &self.data
    }

    /// Rows along the first axis; a scalar is one row.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The elements of a BYTES tensor in order; nothing for other types.
    pub fn byte_elements(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = if self.datatype == DataType::Bytes { self.data.bytes() } else { &[] };
        std::iter::from_fn(move || {
            let (element, tail) = split_frame(rest)?;
            rest = tail;
            Some(element)
        })
    }
}

/// Elements of a shape; an error when the product overflows.
pub fn element_count(shape: &[usize]) -> Result<usize, TensorError> {
    shape
        .iter()
        .try_fold(1_usize, |count, dim| count.checked_mul(*dim))
        .ok_or_else(|| TensorError::ShapeOverflow { shape: shape.to_vec() })
}

/// `Err` carries how many whole elements the bytes frame when that is not `expected` with nothing left over.
fn count_frames(bytes: &[u8], expected: usize) -> Result<(), usize> {
    let mut rest = bytes;
    let mut count = 0;
    while let Some((_, tail)) = split_frame(rest) {
        count += 1;
        rest = tail;
    }
    if count == expected && rest.is_empty() { Ok(()) } else { Err(count) }
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(datatype: DataType, shape: &[usize], bytes: &[u8], ok: bool) {
        let made = Tensor::new(datatype, shape.to_vec(), Buffer::copy_from(bytes));
        assert_eq!(made.is_ok(), ok, "{datatype} {shape:?} {} bytes: {made:?}", bytes.len());
    }

    #[test]
    fn size_must_match_shape() {
        check(DataType::Fp32, &[2, 2], &[0; 16], true);
        check(DataType::Fp32, &[2, 2], &[0; 15], false);
        check(DataType::Fp32, &[], &[0; 4], true);
        check(DataType::Fp32, &[0, 7], &[], true);
        check(DataType::Fp64, &[usize::MAX, 2], &[], false);
        check(DataType::Fp64, &[usize::MAX], &[], false);
    }

    #[test]
    fn bytes_must_be_framed() {
        check(DataType::Bytes, &[2], b"\x01\0\0\0a\x02\0\0\0bc", true);
        check(DataType::Bytes, &[1], b"\x01\0\0\0a\x02\0\0\0bc", false);
        check(DataType::Bytes, &[2], b"\x01\0\0\0a\x03\0\0\0bc", false);
        check(DataType::Bytes, &[1], b"\xff\xff\xff\xff", false);
        check(DataType::Bytes, &[0], b"", true);
    }

    #[test]
    fn byte_elements_are_in_order() {
        let tensor =
            Tensor::new(DataType::Bytes, vec![2], Buffer::copy_from(b"\x01\0\0\0a\0\0\0\0")).unwrap();
        assert_eq!(tensor.byte_elements().collect::<Vec<_>>(), [b"a".as_slice(), b""]);
    }
}
