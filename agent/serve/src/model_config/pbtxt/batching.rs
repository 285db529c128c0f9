use triton::model_queue_policy::TimeoutAction as Action;

use super::{Claims, count};
use crate::{ModelConfig, QueuePolicy, TimeoutAction};

pub(super) fn apply(
    config: &mut ModelConfig,
    claims: &mut Claims,
    written: &triton::ModelDynamicBatching,
) -> Result<(), String> {
    if written.max_queue_delay_microseconds > 0 {
        claims.insert("batch_delay_us", "dynamic_batching.max_queue_delay_microseconds");
        config.batch_delay_us = written.max_queue_delay_microseconds;
    }
    preferred(config, claims, &written.preferred_batch_size)?;
    if written.preserve_ordering {
        claims.insert("preserve_ordering", "dynamic_batching.preserve_ordering");
        config.preserve_ordering = true;
    }
    let small = |field: &str, value: u64| u32::try_from(value).map_err(|_| format!("{field} is {value}"));
    if written.priority_levels > 0 {
        claims.insert("priority", "dynamic_batching.priority_levels");
        config.priority.levels = small("priority_levels", written.priority_levels)?;
        config.priority.default_level = small("default_priority_level", written.default_priority_level)?;
    }
    if let Some(policy) = &written.default_queue_policy {
        claims.insert("priority", "dynamic_batching.default_queue_policy");
        config.priority.default_queue = queue_policy(policy)?;
    }
    for (level, policy) in &written.priority_queue_policy {
        claims.insert("priority", "dynamic_batching.priority_queue_policy");
        config.priority.queues.insert(small("priority_queue_policy", *level)?, queue_policy(policy)?);
    }
    Ok(())
}

pub(super) fn preferred(
    config: &mut ModelConfig,
    claims: &mut Claims,
    written: &[i32],
) -> Result<(), String> {
    if !written.is_empty() {
        claims.insert("preferred_batch_sizes", "preferred_batch_size");
    }
    let sizes = written.iter().map(|size| count("preferred_batch_size", *size));
    config.preferred_batch_sizes = sizes.collect::<Result<_, _>>()?;
    Ok(())
}

fn queue_policy(written: &triton::ModelQueuePolicy) -> Result<QueuePolicy, String> {
    let size = usize::try_from(written.max_queue_size).unwrap_or(usize::MAX);
    let timeout_action = match Action::try_from(written.timeout_action) {
        Ok(Action::Reject) => TimeoutAction::Reject,
        Ok(Action::Delay) => TimeoutAction::Delay,
        Err(_) => return Err(format!("timeout_action {} is none of Triton's", written.timeout_action)),
    };
    Ok(QueuePolicy {
        max_queue_size: (size > 0).then_some(size),
        default_timeout_us: written.default_timeout_microseconds,
        allow_timeout_override: written.allow_timeout_override,
        timeout_action,
    })
}
