use engine::DataType;
use wire::NamedTensor;

use crate::Error;

/// An output's shape and its elements, row major.
#[derive(Debug, Clone, PartialEq)]
pub struct Floats {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// What a model answered, in whatever form it came.
pub trait Outputs {
    /// # Errors
    /// `Output`: there is none of this name, or it holds no numbers.
    fn floats(&self, name: &str) -> Result<Floats, Error>;
}

impl Outputs for [NamedTensor] {
    fn floats(&self, name: &str) -> Result<Floats, Error> {
        let found = self.iter().find(|output| output.name == name);
        let tensor = &found.ok_or_else(|| Error::output(name, "the model has none of this name"))?.tensor;
        if tensor.datatype() != DataType::Fp32 {
            return Err(Error::output(name, format!("is {}, expected FP32", tensor.datatype())));
        }
        let (elements, _) = tensor.data().bytes().as_chunks::<4>();
        let values = elements.iter().map(|element| f32::from_le_bytes(*element)).collect();
        Ok(Floats { shape: tensor.shape().to_vec(), values })
    }
}
