//! One loaded model: batches in, the runtime's own output memory out.

use std::sync::Arc;

use engine::{
    Batch, Buffer, DataType, Engine, EngineError, LoadError, Member, MemberId, Outputs, Place, Placement,
    Provider, Signature, Tensor, gather, scatter,
};
use ort::ErrorCode;

use crate::error::one_line;
use crate::ffi::{Session, Value};

/// Inputs at less than this alignment are copied: malloc and every other caller of the runtime give at least
/// this, so nothing less has been tried on its kernels.
const INPUT_ALIGNMENT: usize = 16;

/// Texts of CUDA errors after which every later call on the context fails too (CUDA Runtime API, `cudaError_t`:
/// "the process must be terminated and relaunched").
const LOST_DEVICE: [&str; 6] = [
    "illegal memory access",
    "unspecified launch failure",
    "device-side assert",
    "CUDA failure 700",
    "CUDA failure 719",
    "device is lost",
];

#[derive(Debug)]
pub(crate) struct OrtEngine {
    session: Arc<Session>,
    signature: Signature,
    placement: Placement,
    /// Rows that one run may have; a larger batch runs in slices.
    row_limit: Option<usize>,
    /// Its outputs have other shapes than it declares.
    ignores_places: bool,
}

impl OrtEngine {
    pub(crate) fn new(session: Session, placement: Placement) -> Result<Self, LoadError> {
        let signature = session.signature()?;
        Ok(Self { session: Arc::new(session), signature, placement, row_limit: None, ignores_places: false })
    }

    pub(crate) fn with_row_limit(mut self, rows: usize) -> Self {
        self.row_limit = Some(rows.max(1));
        self
    }

    /// Joins input `index` of the members and checks it against the signature, so that the runtime never sees
    /// what the model does not declare.
    fn input(&self, batch: &Batch, index: usize) -> Result<Tensor, EngineError> {
        let tensor = gather(batch, index)?;
        let spec = self.signature.inputs.get(index).ok_or(EngineError::Shape { index })?;
        let refuse = |detail: String| Err(EngineError::Input { detail: format!("{}: {detail}", spec.name) });
        if tensor.datatype() != spec.datatype {
            return refuse(format!("the model takes {}, not {}", spec.datatype, tensor.datatype()));
        }
        if !spec.accepts(tensor.shape()) {
            return refuse(format!("the model takes {:?}, not {:?}", spec.wire_shape(), tensor.shape()));
        }
        if spec.datatype == DataType::Bool && tensor.data().bytes().iter().any(|byte| *byte > 1) {
            return refuse("a BOOL is 0 or 1".to_owned());
        }
        if tensor.data().bytes().as_ptr().addr().is_multiple_of(INPUT_ALIGNMENT) {
            return Ok(tensor);
        }
        let copy = Buffer::copy_from(tensor.data().bytes());
        Tensor::new(tensor.datatype(), tensor.shape().to_vec(), copy)
            .map_err(|_| EngineError::Shape { index })
    }

    /// A model may declare other output shapes than it gives, which the runtime forgives unless it was told to
    /// write to a place of that shape. Such a model is found out once and runs without places from then on.
    fn run_placed(
        &mut self,
        inputs: &[Tensor],
        places: Vec<Option<Place>>,
    ) -> Result<Vec<Tensor>, EngineError> {
        if self.ignores_places || places.iter().all(Option::is_none) {
            return self.run_once(inputs, Vec::new());
        }
        match self.run_once(inputs, places) {
            Err(EngineError::Input { .. } | EngineError::Run { .. }) => {
                let outputs = self.run_once(inputs, Vec::new())?;
                self.ignores_places = true;
                Ok(outputs)
            }
            ran => ran,
        }
    }

    fn run_once(
        &self,
        inputs: &[Tensor],
        mut places: Vec<Option<Place>>,
    ) -> Result<Vec<Tensor>, EngineError> {
        let values = inputs.iter().map(|input| Value::borrow(self.session.host_memory(), input));
        let values: Vec<_> = values.collect::<Result<_, _>>().map_err(run_error)?;
        let mut given = Vec::with_capacity(places.len());
        for (place, spec) in places.iter_mut().zip(&self.signature.outputs) {
            given.push(match place {
                Some(Place { shape, memory }) => {
                    let bytes = memory.bytes_mut();
                    Value::place(self.session.host_memory(), spec.datatype, shape, bytes)
                        .map_err(run_error)?
                }
                None => None,
            });
        }
        let outputs = self.session.run(&values, &mut given).map_err(run_error)?;
        drop(given);
        places.resize_with(outputs.len(), || None);
        let outputs = outputs.into_iter().zip(places).zip(&self.signature.outputs);
        let outputs = outputs.map(|((output, place), spec)| match (output, place) {
            (Some(output), _) => output.into_tensor(&self.session, inputs).map_err(run_error),
            (None, Some(place)) => Tensor::new(spec.datatype, place.shape, place.memory.freeze())
                .map_err(|error| EngineError::Run { detail: error.to_string() }),
            (None, None) => Err(EngineError::Run { detail: "the runtime gave no output".to_owned() }),
        });
        outputs.collect()
    }
}

/// Runs at most `limit` rows at a time and joins the outputs again.
fn run_in_slices(
    inputs: Vec<Tensor>,
    limit: usize,
    mut run: impl FnMut(&[Tensor]) -> Result<Vec<Tensor>, EngineError>,
) -> Result<Vec<Tensor>, EngineError> {
    let rows = inputs.first().map_or(1, Tensor::rows);
    let sizes = (0..rows.div_ceil(limit)).map(|slice| limit.min(rows - slice * limit));
    let slices: Vec<Member> = sizes.map(placeholder).collect::<Result<_, _>>()?;
    let mut done = Batch { members: Vec::with_capacity(slices.len()) };
    for part in scatter(&Batch { members: slices }, inputs)? {
        done.members.push(Member { id: MemberId(0), inputs: run(&part)? });
    }
    let outputs = done.members.first().map_or(0, |member| member.inputs.len());
    (0..outputs).map(|index| gather(&done, index)).collect()
}

/// A member that has rows and no bytes, to tell `scatter` where to cut.
fn placeholder(rows: usize) -> Result<Member, EngineError> {
    let tensor = Tensor::new(DataType::Uint8, vec![rows, 0], Buffer::copy_from(&[]));
    Ok(Member { id: MemberId(0), inputs: vec![tensor.map_err(|_| EngineError::Shape { index: 0 })?] })
}

impl Engine for OrtEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placement(&self) -> &Placement {
        &self.placement
    }

    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        self.run_into(batch, Vec::new())
    }

    fn run_into(&mut self, batch: &Batch, places: Vec<Option<Place>>) -> Result<Vec<Outputs>, EngineError> {
        let expected = self.signature.inputs.len();
        if let Some(member) = batch.members.iter().find(|member| member.inputs.len() != expected) {
            let detail = format!("{} inputs for a model of {expected}", member.inputs.len());
            return Err(EngineError::Input { detail });
        }
        if batch.members.is_empty() {
            return Ok(Vec::new());
        }
        let inputs: Vec<Tensor> =
            (0..expected).map(|index| self.input(batch, index)).collect::<Result<_, _>>()?;
        let outputs = match self.row_limit {
            Some(limit) if batch.rows() > limit => {
                run_in_slices(inputs, limit, |part| self.run_once(part, Vec::new()))?
            }
            _ => self.run_placed(&inputs, places)?,
        };
        scatter(batch, outputs)
    }

    /// The C API lets several threads run one session. TensorRT's provider takes a lock for it, so a second engine
    /// would only wait.
    fn share(&self) -> Option<Box<dyn Engine>> {
        let mut providers = self.placement.assignments.iter().map(|assignment| assignment.provider);
        providers.all(|provider| matches!(provider, Provider::Cpu | Provider::Cuda)).then(|| {
            let (signature, placement) = (self.signature.clone(), self.placement.clone());
            let session = Arc::clone(&self.session);
            let (row_limit, ignores_places) = (self.row_limit, self.ignores_places);
            let shared = Self { session, signature, placement, row_limit, ignores_places };
            Box::new(shared) as Box<dyn Engine>
        })
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn run_error(error: ort::Error) -> EngineError {
    let text = error.message();
    let detail = one_line(text);
    match error.code() {
        ErrorCode::DeviceReset => EngineError::DeviceLost { detail },
        _ if LOST_DEVICE.iter().any(|lost| text.contains(lost)) => EngineError::DeviceLost { detail },
        ErrorCode::InvalidArgument => EngineError::Input { detail },
        _ => EngineError::Run { detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_join_to_the_whole() {
        for (rows, limit, expected) in [(1, 1, 1), (5, 2, 3), (6, 3, 2), (7, 64, 1)] {
            let bytes: Vec<u8> = (0..rows * 2).collect();
            let shape = vec![usize::from(rows), 2];
            let input = Tensor::new(DataType::Uint8, shape, Buffer::copy_from(&bytes)).unwrap();
            let mut runs = 0;
            let outputs = run_in_slices(vec![input], limit, |part| {
                runs += 1;
                assert!(part[0].rows() <= limit);
                Ok(vec![part[0].clone(), part[0].clone()])
            });
            let outputs = outputs.unwrap();
            assert_eq!((runs, outputs.len()), (expected, 2), "{rows} rows, {limit} at a time");
            assert!(outputs.iter().all(|output| output.data().bytes() == bytes));
        }
    }
}
