use crate::{Buffer, Correlation, DataType, EngineError, Step, Tensor};

/// An input that tells the model where in its sequence a request is.
#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    /// One element per member.
    pub input: String,
    pub kind: ControlKind,
}

/// What a control input says (Triton, `ModelSequenceBatching.Control`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ControlKind {
    /// True for the first request of a sequence.
    Start(Flag),
    /// True for the last one.
    End(Flag),
    /// True for every request there is: a batch has no empty slots here.
    Ready(Flag),
    /// The id of the sequence as its client chose it: UINT64, INT64, UINT32, INT32 or BYTES.
    CorrelationId,
}

/// The values of false and true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Flag {
    Fp32([f32; 2]),
    Int32([i32; 2]),
    Bool([bool; 2]),
}

impl Flag {
    fn bytes(self, value: bool) -> Vec<u8> {
        let index = usize::from(value);
        match self {
            Flag::Fp32(values) => values[index].to_le_bytes().to_vec(),
            Flag::Int32(values) => values[index].to_le_bytes().to_vec(),
            Flag::Bool(values) => vec![u8::from(values[index])],
        }
    }

    const fn datatype(self) -> DataType {
        match self {
            Flag::Fp32(_) => DataType::Fp32,
            Flag::Int32(_) => DataType::Int32,
            Flag::Bool(_) => DataType::Bool,
        }
    }
}

impl ControlKind {
    pub(super) fn accepts(self, datatype: DataType) -> bool {
        use DataType::{Bytes, Int32, Int64, Uint32, Uint64};
        match self {
            ControlKind::Start(flag) | ControlKind::End(flag) | ControlKind::Ready(flag) => {
                flag.datatype() == datatype
            }
            ControlKind::CorrelationId => matches!(datatype, Uint64 | Int64 | Uint32 | Int32 | Bytes),
        }
    }

    /// The value for one request.
    pub(super) fn tensor(
        self,
        datatype: DataType,
        shape: &[usize],
        step: &Step,
    ) -> Result<Tensor, EngineError> {
        let bytes = match self {
            ControlKind::Start(flag) => flag.bytes(step.start),
            ControlKind::End(flag) => flag.bytes(step.end),
            ControlKind::Ready(flag) => flag.bytes(true),
            ControlKind::CorrelationId => correlation(datatype, &step.correlation)?,
        };
        Tensor::new(datatype, shape.to_vec(), Buffer::copy_from(&bytes))
            .map_err(|error| EngineError::Run { detail: error.to_string() })
    }
}

fn correlation(datatype: DataType, id: &Correlation) -> Result<Vec<u8>, EngineError> {
    let misfit =
        || EngineError::Input { detail: format!("the model takes sequence ids of type {datatype} only") };
    let framed = |text: &[u8]| {
        let len = u32::try_from(text.len()).map_err(|_| misfit())?;
        Ok([&len.to_le_bytes(), text].concat())
    };
    match (id, datatype) {
        (Correlation::Number(id), DataType::Uint64) => Ok(id.to_le_bytes().to_vec()),
        (Correlation::Number(id), DataType::Int64) => {
            i64::try_from(*id).map(|id| id.to_le_bytes().to_vec()).map_err(|_| misfit())
        }
        (Correlation::Number(id), DataType::Uint32) => {
            u32::try_from(*id).map(|id| id.to_le_bytes().to_vec()).map_err(|_| misfit())
        }
        (Correlation::Number(id), DataType::Int32) => {
            i32::try_from(*id).map(|id| id.to_le_bytes().to_vec()).map_err(|_| misfit())
        }
        (Correlation::Number(id), DataType::Bytes) => framed(id.to_string().as_bytes()),
        (Correlation::Text(id), DataType::Bytes) => framed(id.as_bytes()),
        _ => Err(misfit()),
    }
}
