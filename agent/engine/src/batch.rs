use std::sync::Arc;

use crate::tensor::element_count;
use crate::{BufferMut, DataType, EngineError, MemberId, Tensor};

/// The outputs of one member, in signature order.
pub type Outputs = Vec<Tensor>;

/// One request's part of a batch.
#[derive(Debug)]
pub struct Member {
    pub id: MemberId,
    /// In signature order; the first axis is this member's rows.
    pub inputs: Vec<Tensor>,
}

/// Where in its sequence a member's request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The first request: the member begins anew.
    pub start: bool,
    /// The last one: the member is closed after it.
    pub end: bool,
    pub correlation: Correlation,
}

impl Step {
    /// A sequence of one request.
    pub fn whole() -> Self {
        Self { start: true, end: true, correlation: Correlation::Number(0) }
    }
}

/// The name that a client gave its sequence, for models that want to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Correlation {
    Number(u64),
    Text(Arc<str>),
}

/// Requests that run together. Members keep their own tensors; an engine joins them as suits its device
/// ([`gather`], or straight into device memory).
#[derive(Debug)]
pub struct Batch {
    pub members: Vec<Member>,
}

impl Batch {
    /// Rows of all members along the first axis.
    pub fn rows(&self) -> usize {
        self.members.iter().map(member_rows).sum()
    }
}

fn member_rows(member: &Member) -> usize {
    member.inputs.first().map_or(1, Tensor::rows)
}

/// Joins input `index` of all members along the first axis. One member is shared, not copied.
///
/// # Errors
/// [`EngineError::Shape`] when the members differ in type or in any axis but the first.
pub fn gather(batch: &Batch, index: usize) -> Result<Tensor, EngineError> {
    let mut parts = batch.members.iter().map(|member| member.inputs.get(index));
    let Some(Some(first)) = parts.next() else { return Err(EngineError::Shape { index }) };
    if batch.members.len() == 1 {
        return Ok(first.clone());
    }
    let mut rows = first.rows();
    let mut bytes = first.data().len();
    for part in parts {
        let part = part.ok_or(EngineError::Shape { index })?;
        if part.datatype() != first.datatype() || part.shape().get(1..) != first.shape().get(1..) {
            return Err(EngineError::Shape { index });
        }
        rows += part.rows();
        bytes += part.data().len();
    }
    let mut joined = BufferMut::heap(bytes);
    let mut rest = joined.bytes_mut();
    for part in batch.members.iter().filter_map(|member| member.inputs.get(index)) {
        let (place, tail) = rest.split_at_mut(part.data().len());
        place.copy_from_slice(part.data().bytes());
        rest = tail;
    }
    let mut shape = first.shape().to_vec();
    if let Some(axis) = shape.first_mut() {
        *axis = rows;
    }
    Tensor::new(first.datatype(), shape, joined.freeze()).map_err(|_| EngineError::Shape { index })
}

/// Splits output tensors of a whole batch into one row of outputs per member, sharing the memory.
///
/// # Errors
/// [`EngineError::OutputRows`] when an output's first axis is not the batch's rows.
pub fn scatter(batch: &Batch, outputs: Vec<Tensor>) -> Result<Vec<Outputs>, EngineError> {
    if batch.members.len() == 1 {
        return Ok(vec![outputs]);
    }
    let rows = batch.rows();
    let mut split: Vec<Outputs> = batch.members.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in &outputs {
        if output.rows() != rows {
            return Err(EngineError::OutputRows { expected: rows, got: output.rows() });
        }
        let mut from = 0;
        for (member, part) in batch.members.iter().zip(&mut split) {
            let upto = from + member_rows(member);
            part.push(take_rows(output, from, upto)?);
            from = upto;
        }
    }
    Ok(split)
}

fn take_rows(tensor: &Tensor, from: usize, upto: usize) -> Result<Tensor, EngineError> {
    let mut shape = tensor.shape().to_vec();
    if let Some(axis) = shape.first_mut() {
        *axis = upto - from;
    }
    let error = EngineError::OutputRows { expected: upto, got: tensor.rows() };
    let data = match tensor.datatype().size() {
        Some(size) => {
            let row = element_count(shape.get(1..).unwrap_or_default()).unwrap_or(0) * size;
            tensor.data().slice(from * row..upto * row)
        }
        None => slice_elements(tensor, &shape, from, upto),
    };
    match data.map(|data| Tensor::new(tensor.datatype(), shape, data)) {
        Some(Ok(tensor)) => Ok(tensor),
        _ => Err(error),
    }
}

/// BYTES elements have no fixed stride: walk the frames to the row's edges.
fn slice_elements(tensor: &Tensor, shape: &[usize], from: usize, upto: usize) -> Option<crate::Buffer> {
    debug_assert_eq!(tensor.datatype(), DataType::Bytes);
    let per_row = element_count(shape.get(1..).unwrap_or_default()).ok()?;
    let ends = std::iter::once(0).chain(tensor.byte_elements().scan(0, |end, element| {
        *end += element.len() + 4;
        Some(*end)
    }));
    let ends: Vec<usize> = ends.collect();
    tensor.data().slice(*ends.get(from * per_row)?..*ends.get(upto * per_row)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffer;

    fn member(id: u64, rows: usize, fill: u8) -> Member {
        let tensor =
            Tensor::new(DataType::Uint8, vec![rows, 2], Buffer::copy_from(&vec![fill; rows * 2])).unwrap();
        Member { id: MemberId(id), inputs: vec![tensor] }
    }

    #[test]
    fn gather_then_scatter_gives_each_member_its_rows() {
        let batch = Batch { members: vec![member(1, 1, 7), member(2, 3, 8), member(3, 0, 9)] };
        let joined = gather(&batch, 0).unwrap();
        assert_eq!(joined.shape(), [4, 2]);
        let split = scatter(&batch, vec![joined]).unwrap();
        let bytes: Vec<_> = split.iter().map(|outputs| outputs[0].data().bytes().to_vec()).collect();
        assert_eq!(bytes, [vec![7; 2], vec![8; 6], vec![]]);
    }

    #[test]
    fn unequal_rows_are_an_error() {
        let mut other = member(2, 1, 0);
        other.inputs = vec![Tensor::new(DataType::Uint8, vec![1, 3], Buffer::copy_from(&[0; 3])).unwrap()];
        let batch = Batch { members: vec![member(1, 1, 0), other] };
        assert!(gather(&batch, 0).is_err());
        let output = Tensor::new(DataType::Uint8, vec![5, 1], Buffer::copy_from(&[0; 5])).unwrap();
        assert!(scatter(&batch, vec![output]).is_err());
    }

    #[test]
    fn bytes_rows_follow_their_frames() {
        let batch = Batch { members: vec![member(1, 1, 0), member(2, 1, 0)] };
        let output =
            Tensor::new(DataType::Bytes, vec![2, 1], Buffer::copy_from(b"\x02\0\0\0ab\x01\0\0\0c")).unwrap();
        let split = scatter(&batch, vec![output]).unwrap();
        assert_eq!(split[1][0].byte_elements().collect::<Vec<_>>(), [b"c"]);
    }
}
