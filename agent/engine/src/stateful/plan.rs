use super::controls::{Control, ControlKind};
use super::{StateTensor, owned};
use crate::{
    BufferMut, DataType, Dim, EngineError, LoadError, Member, Outputs, Signature, Step, Tensor, TensorSpec,
    element_count,
};

/// Where an input of the model comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// The request's input of that index.
    Given(usize),
    State(usize),
    Control {
        kind: ControlKind,
        datatype: DataType,
        shape: Vec<usize>,
    },
}

/// How a member's tensors are put together and taken apart.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is shown: without states and controls.
    pub(super) signature: Signature,
    /// The states of a sequence that starts.
    pub(super) initial: Vec<Tensor>,
    /// Whether members can share a run: the first axis of every tensor is the batch.
    pub(super) batches: bool,
    /// One per input of the model.
    sources: Vec<Source>,
    /// One per output of the model: which state it is, if it is one.
    kept: Vec<Option<usize>>,
}

impl Plan {
    pub(super) fn new(
        model: &Signature,
        states: &[StateTensor],
        controls: &[Control],
    ) -> Result<Self, LoadError> {
        let mut sources: Vec<Option<Source>> = model.inputs.iter().map(|_| None).collect();
        let mut kept = vec![None; model.outputs.len()];
        let mut initial = Vec::with_capacity(states.len());
        for (index, state) in states.iter().enumerate() {
            let (at, input) = find(&model.inputs, &state.input, "input")?;
            let (to, output) = find(&model.outputs, &state.output, "output")?;
            if input.datatype != output.datatype {
                let (name, goes, comes) = (&state.input, output.datatype, input.datatype);
                return Err(refuse(format!("state '{name}' goes out as {goes} and comes in as {comes}")));
            }
            initial.push(zeros(state, input)?);
            take(&mut sources, at, Source::State(index), &state.input)?;
            if kept.get_mut(to).is_none_or(|slot| slot.replace(index).is_some()) {
                return Err(refuse(format!("output '{}' is named twice", state.output)));
            }
        }
        for Control { input, kind } in controls {
            let (at, spec) = find(&model.inputs, input, "input")?;
            let shape: Vec<_> = spec.shape.iter().map(one).collect();
            if element_count(&shape) != Ok(1) {
                return Err(refuse(format!("control input '{input}' has more than one element")));
            }
            if !kind.accepts(spec.datatype) {
                let datatype = spec.datatype;
                return Err(refuse(format!("control input '{input}' is {datatype} in the model")));
            }
            let source = Source::Control { kind: *kind, datatype: spec.datatype, shape };
            take(&mut sources, at, source, input)?;
        }
        let mut given = 0;
        let sources: Vec<_> = sources
            .into_iter()
            .map(|source| {
                source.unwrap_or_else(|| {
                    given += 1;
                    Source::Given(given - 1)
                })
            })
            .collect();
        let inputs = model.inputs.iter().zip(&sources);
        let inputs = inputs.filter(|(_, source)| matches!(source, Source::Given(_)));
        let outputs = model.outputs.iter().zip(&kept).filter(|(_, state)| state.is_none());
        let signature = Signature {
            inputs: inputs.map(|(spec, _)| spec.clone()).collect(),
            outputs: outputs.map(|(spec, _)| spec.clone()).collect(),
        };
        let rows = initial.iter().all(|state| state.rows() == 1);
        Ok(Self { signature, initial, batches: model.batches() && rows, sources, kept })
    }

    /// What the model takes for one member.
    pub(super) fn inputs(
        &self,
        member: &Member,
        step: &Step,
        state: &[Tensor],
    ) -> Result<Vec<Tensor>, EngineError> {
        let one = |(index, source): (usize, &Source)| match source {
            Source::Given(given) => member.inputs.get(*given).cloned().ok_or(EngineError::Shape { index }),
            Source::State(kept) => state.get(*kept).cloned().ok_or(EngineError::Shape { index }),
            Source::Control { kind, datatype, shape } => kind.tensor(*datatype, shape, step),
        };
        self.sources.iter().enumerate().map(one).collect()
    }

    /// What the member sees, and its states after the step.
    pub(super) fn split(&self, outputs: Outputs) -> Result<(Outputs, Vec<Tensor>), EngineError> {
        let mut shown = Vec::with_capacity(self.signature.outputs.len());
        let mut states: Vec<Option<Tensor>> = self.initial.iter().map(|_| None).collect();
        for (output, kept) in outputs.into_iter().zip(&self.kept) {
            match kept.and_then(|index| states.get_mut(index)) {
                Some(slot) => *slot = Some(owned(&output)?),
                None => shown.push(output),
            }
        }
        let missing = || EngineError::Run { detail: "the model gave no state".to_owned() };
        Ok((shown, states.into_iter().collect::<Option<_>>().ok_or_else(missing)?))
    }
}

fn find<'a>(specs: &'a [TensorSpec], name: &str, what: &str) -> Result<(usize, &'a TensorSpec), LoadError> {
    let found = specs.iter().enumerate().find(|(_, spec)| spec.name == name);
    found.ok_or_else(|| refuse(format!("the model has no {what} '{name}'")))
}

fn take(slots: &mut [Option<Source>], at: usize, source: Source, name: &str) -> Result<(), LoadError> {
    match slots.get_mut(at) {
        Some(slot) if slot.is_none() => {
            *slot = Some(source);
            Ok(())
        }
        _ => Err(refuse(format!("input '{name}' is named twice"))),
    }
}

fn zeros(state: &StateTensor, spec: &TensorSpec) -> Result<Tensor, LoadError> {
    let StateTensor { input, shape, .. } = state;
    let shape = shape.clone().unwrap_or_else(|| spec.shape.iter().map(one).collect());
    if !spec.accepts(&shape) {
        let declared = spec.wire_shape();
        return Err(refuse(format!("state '{input}' is {shape:?}, but {declared:?} in the model")));
    }
    let bytes = element_count(&shape).ok().and_then(|count| count.checked_mul(spec.datatype.size()?));
    let Some(bytes) = bytes else {
        return Err(refuse(format!("state '{input}' of type {} cannot start as zeros", spec.datatype)));
    };
    Tensor::new(spec.datatype, shape, BufferMut::heap(bytes).freeze())
        .map_err(|error| refuse(error.to_string()))
}

fn one(dim: &Dim) -> usize {
    match dim {
        Dim::Fixed(size) => *size,
        Dim::Dynamic(_) => 1,
    }
}

fn refuse(detail: String) -> LoadError {
    LoadError::State { detail }
}
