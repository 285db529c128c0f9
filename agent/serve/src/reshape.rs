//! A tensor that its clients see in another shape than the model does (model_config.proto, `ModelTensorReshape`).
//! The elements stay as they are; a batch axis is first on both sides and is no part of it.

use engine::{Tensor, TensorError};

/// The way between the two shapes of one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reshape {
    /// As the clients see it; `None` is any size.
    outer: Vec<Option<usize>>,
    /// As the model sees it. Its n-th axis of any size is the n-th of `outer`.
    inner: Vec<Option<usize>>,
    batches: bool,
}

impl Reshape {
    /// The axes of any size must be as many on both sides, with as many elements between them.
    pub(crate) fn new(
        outer: &[Option<usize>],
        inner: &[Option<usize>],
        batches: bool,
    ) -> Result<Self, String> {
        if segments(outer) != segments(inner) || segments(outer).is_none() {
            let text = |dims: &[Option<usize>]| {
                let sizes = dims.iter().map(|dim| dim.map_or("-1".to_owned(), |size| size.to_string()));
                sizes.collect::<Vec<_>>().join(", ")
            };
            let (outer, inner) = (text(outer), text(inner));
            return Err(format!("dims [{outer}] and reshape [{inner}] do not hold the same elements"));
        }
        Ok(Self { outer: outer.to_vec(), inner: inner.to_vec(), batches })
    }

    /// A request's tensor, which has the clients' shape, as the model takes it.
    pub(crate) fn enter(&self, tensor: &Tensor) -> Result<Tensor, TensorError> {
        reshape(tensor, &self.outer, &self.inner, self.batches)
    }

    /// What the model gave, as the clients see it.
    pub(crate) fn leave(&self, tensor: &Tensor) -> Result<Tensor, TensorError> {
        reshape(tensor, &self.inner, &self.outer, self.batches)
    }
}

fn reshape(
    tensor: &Tensor,
    from: &[Option<usize>],
    to: &[Option<usize>],
    batches: bool,
) -> Result<Tensor, TensorError> {
    let (batch, sizes) = tensor.shape().split_at_checked(usize::from(batches)).unwrap_or_default();
    let mut free = from.iter().zip(sizes).filter(|(dim, _)| dim.is_none()).map(|(_, size)| *size);
    let filled = to.iter().map(|dim| dim.or_else(|| free.next()).unwrap_or(0));
    let shape = batch.iter().copied().chain(filled).collect();
    Tensor::new(tensor.datatype(), shape, tensor.data().clone())
}

/// The elements of the fixed axes before, between and after those of any size; `None` when there are too many.
fn segments(dims: &[Option<usize>]) -> Option<Vec<usize>> {
    dims.split(Option::is_none)
        .map(|fixed| fixed.iter().try_fold(1_usize, |count, dim| count.checked_mul((*dim)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use engine::{Buffer, DataType};

    use super::*;

    fn dims(dims: &[i64]) -> Vec<Option<usize>> {
        dims.iter().map(|size| usize::try_from(*size).ok()).collect()
    }

    #[test]
    fn there_and_back() {
        let check = |outer: &[i64], inner: &[i64], batches, shape: &[usize], expected: &[usize]| {
            let way = Reshape::new(&dims(outer), &dims(inner), batches).unwrap();
            let len = shape.iter().product();
            let tensor =
                Tensor::new(DataType::Uint8, shape.to_vec(), Buffer::copy_from(&vec![7; len])).unwrap();
            let entered = way.enter(&tensor).unwrap();
            assert_eq!(entered.shape(), expected);
            assert_eq!(way.leave(&entered).unwrap().shape(), shape);
        };
        check(&[1], &[], true, &[5, 1], &[5]);
        check(&[4], &[2, 2], true, &[3, 4], &[3, 2, 2]);
        check(&[2, 2], &[4], false, &[2, 2], &[4]);
        check(&[-1, 4], &[1, -1, 2, 2], true, &[2, 9, 4], &[2, 1, 9, 2, 2]);
        check(&[-1, 2, -1], &[-1, 1, 2, -1], false, &[3, 2, 5], &[3, 1, 2, 5]);
        check(&[-1], &[-1, 1], true, &[2, 0], &[2, 0, 1]);
    }

    #[test]
    fn shapes_of_other_elements_are_no_reshape() {
        let check = |outer: &[i64], inner: &[i64]| {
            let error = Reshape::new(&dims(outer), &dims(inner), true).unwrap_err();
            assert!(error.contains("elements"), "{error}");
        };
        check(&[4], &[2, 3]);
        check(&[-1], &[4]);
        check(&[-1, 4], &[4, -1]);
        check(&[], &[2]);
        check(&[i64::MAX, i64::MAX], &[i64::MAX, i64::MAX]);
    }
}
