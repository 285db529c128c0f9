//! Models that keep state between the requests of a sequence (model_config.proto, `ModelSequenceBatching`).

use engine::{StateTensor, States};
use serde::Deserialize;

/// What the agent keeps for each sequence, and how long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SequenceConfig {
    pub state: Vec<StateConfig>,
    pub controls: Vec<ControlConfig>,
    /// A sequence that is not continued for so long ends.
    pub max_idle_us: u64,
    /// More at a time are refused.
    pub max_sequences: usize,
}

impl Default for SequenceConfig {
    fn default() -> Self {
        Self { state: Vec::new(), controls: Vec::new(), max_idle_us: 1_000_000, max_sequences: 1024 }
    }
}

/// An output that comes in again with the next request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateConfig {
    pub input: String,
    pub output: String,
    /// Of one request, batch axis included; zeros when a sequence starts. `None` is the input's declared shape with
    /// every dynamic axis 1.
    #[serde(default)]
    pub shape: Option<Vec<usize>>,
}

/// An input that tells the model where in its sequence a request is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    pub input: String,
    pub kind: ControlKind,
    /// The values of false and true, for all kinds but the id.
    #[serde(default)]
    pub false_true: Option<Flag>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// True for the first request of a sequence.
    Start,
    /// True for the last one.
    End,
    /// True for every request.
    Ready,
    /// The id of the sequence, as its client chose it.
    CorrelationId,
}

/// The values of false and true: `{ fp32 = [0.0, 1.0] }`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flag {
    Fp32([f32; 2]),
    Int32([i32; 2]),
    Bool([bool; 2]),
}

impl From<Flag> for engine::Flag {
    fn from(flag: Flag) -> Self {
        match flag {
            Flag::Fp32(values) => Self::Fp32(values),
            Flag::Int32(values) => Self::Int32(values),
            Flag::Bool(values) => Self::Bool(values),
        }
    }
}

impl SequenceConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.max_sequences == 0 {
            return Err("max_sequences is 0: no sequence could ever start".to_owned());
        }
        if self.max_idle_us == 0 {
            return Err("max_idle_us is 0: a sequence would end before it could go on".to_owned());
        }
        let flagless = |control: &&ControlConfig| {
            control.kind != ControlKind::CorrelationId && control.false_true.is_none()
        };
        match self.controls.iter().find(flagless) {
            Some(control) => Err(format!("control '{}' has no values for false and true", control.input)),
            None => Ok(()),
        }
    }

    /// What the engines of one version are wrapped by.
    pub(crate) fn states(&self) -> States {
        let state = |state: &StateConfig| StateTensor {
            input: state.input.clone(),
            output: state.output.clone(),
            shape: state.shape.clone(),
        };
        let control = |control: &ControlConfig| {
            // Checked: only the id has no values.
            let flag = control.false_true.unwrap_or(Flag::Fp32([0.0, 1.0])).into();
            let kind = match control.kind {
                ControlKind::Start => engine::ControlKind::Start(flag),
                ControlKind::End => engine::ControlKind::End(flag),
                ControlKind::Ready => engine::ControlKind::Ready(flag),
                ControlKind::CorrelationId => engine::ControlKind::CorrelationId,
            };
            engine::Control { input: control.input.clone(), kind }
        };
        let states = self.state.iter().map(state).collect();
        States::new(states, self.controls.iter().map(control).collect())
    }

    /// The inputs that the agent gives and no client does.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &str> {
        let states = self.state.iter().map(|state| state.input.as_str());
        states.chain(self.controls.iter().map(|control| control.input.as_str()))
    }

    /// The inputs and outputs that no client sees.
    pub(crate) fn own(&self) -> impl Iterator<Item = &str> {
        self.inputs().chain(self.state.iter().map(|state| state.output.as_str()))
    }
}
