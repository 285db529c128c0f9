//! Models whose state goes out as an output and comes in again as an input, request after request (Triton,
//! "sequence_batching": `state` and `control_input`, model_config.proto).
//!
//! [`States`] is the state of every sequence of one loaded model, and how its tensors are named. [`States::wrap`]
//! puts a [`Stateful`] around an engine: its signature hides the state and control tensors, and
//! [`Engine::step`] puts them in and takes them out. Every engine of the model (its instances, and the better one
//! that replaces them) is wrapped by the same `States`: so any instance can run any step
//! (`docs/decisions/0008-sequence-state-is-shared-by-the-instances.md`).
//!
//! A step that fails changes no state. The caller never runs two steps of one member at a time.
//!
//! States lie on the heap: what a runtime gives may be a part of a whole batch, or of memory that is scarce.

mod controls;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    Batch, Buffer, Engine, EngineError, Footprint, LoadError, Member, MemberId, Memory, Outputs, Placement,
    Signature, Step, Tensor,
};

pub use controls::{Control, ControlKind, Flag};
use plan::Plan;

/// One state of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateTensor {
    pub input: String,
    pub output: String,
    /// Of one member, batch axis included; zeros when a sequence starts. `None` is the input's declared shape with
    /// every dynamic axis 1.
    pub shape: Option<Vec<usize>>,
}

/// The states of all sequences of one loaded model. Clones are the same states.
#[derive(Debug, Clone)]
pub struct States {
    tensors: Arc<[StateTensor]>,
    controls: Arc<[Control]>,
    members: Arc<Mutex<HashMap<MemberId, Vec<Tensor>>>>,
}

impl States {
    pub fn new(tensors: Vec<StateTensor>, controls: Vec<Control>) -> Self {
        Self { tensors: tensors.into(), controls: controls.into(), members: Arc::default() }
    }

    /// # Errors
    /// [`LoadError::State`], when the model has no such tensors, or of other types or shapes.
    pub fn wrap(&self, engine: Box<dyn Engine>) -> Result<Stateful, LoadError> {
        let plan = Plan::new(engine.signature(), &self.tensors, &self.controls)?;
        Ok(Stateful { engine, plan: Arc::new(plan), states: self.clone() })
    }

    /// Sequences that have state now.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn get(&self, member: MemberId) -> Option<Vec<Tensor>> {
        self.lock().get(&member).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MemberId, Vec<Tensor>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An engine that keeps the state of its members between steps.
#[derive(Debug)]
pub struct Stateful {
    engine: Box<dyn Engine>,
    plan: Arc<Plan>,
    states: States,
}

impl Stateful {
    /// Runs the members from the given states. Their outputs, and the states after them.
    fn advance(
        &mut self,
        batch: &Batch,
        steps: &[Step],
        states: &[Vec<Tensor>],
    ) -> Result<(Vec<Outputs>, Vec<Vec<Tensor>>), EngineError> {
        let mut members = Vec::with_capacity(batch.members.len());
        for ((member, step), state) in batch.members.iter().zip(steps).zip(states) {
            members.push(Member { id: member.id, inputs: self.plan.inputs(member, step, state)? });
        }
        let expected = members.len();
        let rows = if self.plan.batches {
            self.engine.run(&Batch { members })?
        } else {
            let mut rows = Vec::with_capacity(expected);
            for member in members {
                rows.append(&mut self.engine.run(&Batch { members: vec![member] })?);
            }
            rows
        };
        if rows.len() != expected {
            return Err(EngineError::OutputRows { expected, got: rows.len() });
        }
        let mut after = Vec::with_capacity(expected);
        let mut shown = Vec::with_capacity(expected);
        for outputs in rows {
            let (outputs, states) = self.plan.split(outputs)?;
            shown.push(outputs);
            after.push(states);
        }
        Ok((shown, after))
    }
}

impl Engine for Stateful {
    /// Without the state and control tensors.
    fn signature(&self) -> &Signature {
        &self.plan.signature
    }

    fn placement(&self) -> &Placement {
        self.engine.placement()
    }

    /// Every member as a whole sequence of one request, which leaves no state behind.
    fn run(&mut self, batch: &Batch) -> Result<Vec<Outputs>, EngineError> {
        let steps: Vec<_> = batch.members.iter().map(|_| Step::whole()).collect();
        let states: Vec<_> = batch.members.iter().map(|_| self.plan.initial.clone()).collect();
        self.advance(batch, &steps, &states).map(|(outputs, _)| outputs)
    }

    fn member_bytes(&self, inputs: &[Tensor]) -> u64 {
        let state = self.plan.initial.iter().map(|state| state.data().len()).sum::<usize>();
        self.engine.member_bytes(inputs).saturating_add(u64::try_from(state).unwrap_or(u64::MAX))
    }

    fn share(&self) -> Option<Box<dyn Engine>> {
        let engine = self.engine.share()?;
        Some(Box::new(Self { engine, plan: Arc::clone(&self.plan), states: self.states.clone() }))
    }

    fn footprint(&self) -> Option<Footprint> {
        self.engine.footprint()
    }

    fn on_lost(&self, tell: crate::OnLost) {
        self.engine.on_lost(tell);
    }

    fn memory(&self) -> Option<Arc<dyn Memory>> {
        self.engine.memory()
    }

    fn open(&mut self, member: MemberId) -> Result<(), EngineError> {
        self.states.lock().insert(member, self.plan.initial.clone());
        Ok(())
    }

    fn step(&mut self, batch: &Batch, steps: &[Step]) -> Result<Vec<Outputs>, EngineError> {
        let states: Option<Vec<_>> = batch.members.iter().map(|member| self.states.get(member.id)).collect();
        let Some(states) = states.filter(|states| states.len() == steps.len()) else {
            return Err(EngineError::Stateless { operation: "state of that sequence" });
        };
        let (outputs, after) = self.advance(batch, steps, &states)?;
        let mut members = self.states.lock();
        for (member, state) in batch.members.iter().zip(after) {
            // Who was closed meanwhile stays closed.
            if let Some(kept) = members.get_mut(&member.id) {
                *kept = state;
            }
        }
        Ok(outputs)
    }

    fn close(&mut self, member: MemberId) {
        self.states.lock().remove(&member);
    }
}

/// The tensor with memory of its own.
fn owned(tensor: &Tensor) -> Result<Tensor, EngineError> {
    Tensor::new(tensor.datatype(), tensor.shape().to_vec(), Buffer::copy_from(tensor.data().bytes()))
        .map_err(|error| EngineError::Run { detail: error.to_string() })
}
