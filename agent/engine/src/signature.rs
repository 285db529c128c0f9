use crate::DataType;

/// One axis of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// Any size; the model's own name for it when it has one ("batch", "seq").
    Dynamic(Option<String>),
}

/// A declared input or output of a model, batch axis included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<Dim>,
}

impl TensorSpec {
    /// Whether a tensor of `shape` fits the declared axes.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        self.shape.len() == shape.len()
            && self.shape.iter().zip(shape).all(|(declared, got)| match declared {
                Dim::Fixed(size) => size == got,
                Dim::Dynamic(_) => true,
            })
    }

    /// The shape as the v2 protocol prints it: -1 for a dynamic axis.
    pub fn wire_shape(&self) -> Vec<i64> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
            Dim::Dynamic(_) => -1,
        };
        self.shape.iter().map(size).collect()
    }

    /// Whether the first axis is dynamic, so that requests can share a batch.
    pub fn batches(&self) -> bool {
        matches!(self.shape.first(), Some(Dim::Dynamic(_)))
    }
}

/// The inputs and outputs of a model, in the model's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// Whether every input and output has a dynamic first axis.
    pub fn batches(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).all(TensorSpec::batches)
    }
}
