//! Messages as JSON, as Triton's HTTP server prints them: the field names of the .proto files, 64-bit numbers as
//! numbers, and fields that were never set with their defaults.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

/// Why a message has no JSON form. None of the messages of this crate can cause it.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("there is no message {name}")]
    Unknown { name: &'static str },
    #[error("the message is no {name}")]
    Other {
        name: &'static str,
        #[source]
        source: prost::DecodeError,
    },
    #[error("a value of {name} has no JSON form")]
    Value {
        name: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // The file is made with the code beside it; a test reads it.
    DescriptorPool::decode(include_bytes!("generated/descriptors.bin").as_slice()).unwrap_or_default()
});

/// `name` is the message's own, without the package.
///
/// # Errors
/// [`JsonError`] where `name` is not the name of `message`.
pub fn to_json(name: &'static str, message: &impl Message) -> Result<Value, JsonError> {
    let descriptor = POOL.get_message_by_name(&format!("inference.{name}"));
    let descriptor = descriptor.ok_or(JsonError::Unknown { name })?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|source| JsonError::Other { name, source })?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|source| JsonError::Value { name, source })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{ModelConfig, ModelDynamicBatching, ModelInput, model_config::SchedulingChoice};

    #[test]
    fn a_configuration_reads_as_tritons_does() {
        let config = ModelConfig {
            name: "m".to_owned(),
            max_batch_size: 8,
            input: vec![ModelInput {
                name: "x".to_owned(),
                data_type: 11,
                dims: vec![-1, 4],
                ..Default::default()
            }],
            scheduling_choice: Some(SchedulingChoice::DynamicBatching(ModelDynamicBatching {
                max_queue_delay_microseconds: u64::MAX,
                ..Default::default()
            })),
            ..ModelConfig::default()
        };
        let json = to_json("ModelConfig", &config).unwrap();
        assert_eq!(json["name"], "m");
        assert_eq!(json["platform"], "", "defaults are there");
        assert_eq!(json["input"][0]["data_type"], "TYPE_FP32");
        assert_eq!(json["input"][0]["dims"], json!([-1, 4]));
        assert_eq!(json["dynamic_batching"]["max_queue_delay_microseconds"], u64::MAX);
        assert!(json.get("sequence_batching").is_none() && json.get("ensemble_scheduling").is_none());
        assert!(to_json("NoMessage", &config).is_err());
    }
}
