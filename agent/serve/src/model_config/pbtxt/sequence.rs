use triton::model_sequence_batching::control::Kind;
use triton::model_sequence_batching::{Control, State, StrategyChoice};

use super::{Claims, batching, count};
use crate::{ControlConfig, ControlKind, Flag, ModelConfig, SequenceConfig, StateConfig};

pub(super) fn apply(
    config: &mut ModelConfig,
    claims: &mut Claims,
    written: &triton::ModelSequenceBatching,
) -> Result<(), String> {
    claims.insert("sequence", "sequence_batching");
    let mut sequence = SequenceConfig::default();
    if written.max_sequence_idle_microseconds > 0 {
        sequence.max_idle_us = written.max_sequence_idle_microseconds;
    }
    for input in &written.control_input {
        let [control] = input.control.as_slice() else {
            let count = input.control.len();
            return Err(format!("control_input '{}' has {count} controls: it must be one", input.name));
        };
        sequence.controls.push(self::control(&input.name, control)?);
    }
    let batches = config.max_batch_size > 0;
    sequence.state = written.state.iter().map(|it| state(it, batches)).collect::<Result<_, _>>()?;
    match &written.strategy_choice {
        Some(StrategyChoice::Direct(direct)) => delay(config, claims, direct.max_queue_delay_microseconds),
        Some(StrategyChoice::Oldest(oldest)) => {
            delay(config, claims, oldest.max_queue_delay_microseconds);
            batching::preferred(config, claims, &oldest.preferred_batch_size)?;
            if oldest.preserve_ordering {
                claims.insert("preserve_ordering", "sequence_batching.oldest.preserve_ordering");
                config.preserve_ordering = true;
            }
            if oldest.max_candidate_sequences != 0 {
                sequence.max_sequences = count("max_candidate_sequences", oldest.max_candidate_sequences)?;
            }
        }
        None => {}
    }
    // Requests of different sequences share a batch, as with both of Triton's strategies.
    config.dynamic_batching = true;
    config.sequence = Some(sequence);
    Ok(())
}

fn delay(config: &mut ModelConfig, claims: &mut Claims, us: u64) {
    if us > 0 {
        claims.insert("batch_delay_us", "sequence_batching: max_queue_delay_microseconds");
        config.batch_delay_us = us;
    }
}

fn control(input: &str, written: &Control) -> Result<ControlConfig, String> {
    let kind = match Kind::try_from(written.kind) {
        Ok(Kind::ControlSequenceStart) => ControlKind::Start,
        Ok(Kind::ControlSequenceReady) => ControlKind::Ready,
        Ok(Kind::ControlSequenceEnd) => ControlKind::End,
        Ok(Kind::ControlSequenceCorrid) => ControlKind::CorrelationId,
        Err(_) => return Err(format!("control kind {} is none of Triton's", written.kind)),
    };
    let (int32, fp32, bool) =
        (&*written.int32_false_true, &*written.fp32_false_true, &*written.bool_false_true);
    let false_true = match (kind, int32, fp32, bool) {
        (ControlKind::CorrelationId, [], [], []) => None,
        (_, [no, yes], [], []) => Some(Flag::Int32([*no, *yes])),
        (_, [], [no, yes], []) => Some(Flag::Fp32([*no, *yes])),
        (_, [], [], [no, yes]) => Some(Flag::Bool([*no, *yes])),
        _ => {
            let text = "needs one of int32_false_true, fp32_false_true and bool_false_true, with two values";
            return Err(format!("control_input '{input}' {text}"));
        }
    };
    Ok(ControlConfig { input: input.to_owned(), kind, false_true })
}

fn state(written: &State, batches: bool) -> Result<StateConfig, String> {
    let State { input_name, output_name, dims, initial_state, .. } = written;
    if initial_state.len() > 1 {
        return Err(format!("state '{input_name}' has {} initial states", initial_state.len()));
    }
    let initial = initial_state.first();
    if initial.is_some_and(|initial| initial.data_type != written.data_type) {
        return Err(format!("state '{input_name}' and its initial state differ in data_type"));
    }
    let dims = initial.map_or(dims, |initial| &initial.dims);
    let size = |dim: &i64| match dim {
        -1 => Ok(1),
        dim => count("dims of a state", *dim),
    };
    let batch = batches.then_some(Ok(1));
    let shape = batch.into_iter().chain(dims.iter().map(size)).collect::<Result<_, _>>()?;
    Ok(StateConfig { input: input_name.clone(), output: output_name.clone(), shape: Some(shape) })
}
