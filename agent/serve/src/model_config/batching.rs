//! How requests wait: Triton's priorities and queue policies (model_config.proto, `ModelDynamicBatching` and
//! `ModelQueuePolicy`).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

/// The levels of a model's queue. Level 1 is the highest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PriorityConfig {
    /// 0 is one queue for all, whatever a request asks for.
    pub levels: u32,
    /// Of requests that name no level, or one that is not there. 0 only without levels.
    pub default_level: u32,
    /// Of every level that has none of its own.
    pub default_queue: QueuePolicy,
    /// By level.
    #[serde(deserialize_with = "by_level")]
    pub queues: BTreeMap<u32, QueuePolicy>,
}

/// What holds for the requests of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueuePolicy {
    /// Requests that may wait; `None` leaves it to the limit of the whole queue.
    pub max_queue_size: Option<usize>,
    /// How long a request waits that sets no timeout, or may not; 0 is as long as it takes.
    pub default_timeout_us: u64,
    /// Whether a request's own timeout counts where it is shorter than the default. Triton ignores it where there is no
    /// default at all; here the client is believed.
    pub allow_timeout_override: bool,
    pub timeout_action: TimeoutAction,
}

/// Of a model that says nothing of its queue: the client's timeout, and only that, is kept.
impl Default for QueuePolicy {
    fn default() -> Self {
        Self {
            max_queue_size: None,
            default_timeout_us: 0,
            allow_timeout_override: true,
            timeout_action: TimeoutAction::Reject,
        }
    }
}

/// What happens to a request that waited for its timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeoutAction {
    /// It is answered with an error, at that time and without having run.
    #[default]
    Reject,
    /// It goes behind all requests of its level that are in time, and runs whenever there are none.
    Delay,
}

impl PriorityConfig {
    pub(super) fn check(&self, preserve_ordering: bool) -> Result<(), String> {
        let Self { levels, default_level, default_queue, queues } = self;
        if *levels > MAX_LEVELS {
            return Err(format!("{levels} priority levels: at most {MAX_LEVELS}"));
        }
        if *levels > 0 && !(1..=*levels).contains(default_level) {
            return Err(format!("the default priority level is {default_level}: it must be 1 to {levels}"));
        }
        if let Some(level) = queues.keys().find(|level| !(1..=*levels).contains(level)) {
            return Err(format!(
                "a queue policy for priority level {level}, but there are levels 1 to {levels}"
            ));
        }
        let delays = |queue: &QueuePolicy| {
            queue.default_timeout_us > 0 && queue.timeout_action == TimeoutAction::Delay
        };
        if preserve_ordering && *levels > 1 {
            return Err("preserve_ordering allows one priority level only".to_owned());
        }
        if preserve_ordering && (delays(default_queue) || queues.values().any(delays)) {
            return Err("preserve_ordering does not go with DELAY as timeout action".to_owned());
        }
        Ok(())
    }
}

/// Each is a queue of its own.
const MAX_LEVELS: u32 = 64;

/// Keys of TOML are text.
fn by_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u32, QueuePolicy>, D::Error> {
    let queues = BTreeMap::<String, QueuePolicy>::deserialize(deserializer)?;
    let level = |(level, queue): (String, QueuePolicy)| match level.parse() {
        Ok(level) => Ok((level, queue)),
        Err(_) => Err(de::Error::custom(format!("`{level}` is no priority level"))),
    };
    queues.into_iter().map(level).collect()
}
