use std::collections::BTreeSet;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use crate::ModelConfig;

/// A field that Triton's model configuration may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Names from the top, joined by dots: `dynamic_batching.priority_queue_policy.max_queue_size`. Lists and the
    /// values of maps add nothing to it.
    pub path: String,
    /// Whether it has fields of its own.
    pub is_message: bool,
}

/// Every field that there is, depth first, in the order of the proto file.
pub fn fields() -> Vec<Field> {
    let mut all = Vec::new();
    if let Ok(message) = super::descriptor() {
        describe(&message, "", &mut all);
    }
    all
}

/// The paths of the fields that differ from their defaults, and of all messages that are there.
pub fn set_fields(config: &ModelConfig) -> BTreeSet<String> {
    let mut set = BTreeSet::new();
    if let Ok(descriptor) = super::descriptor() {
        let mut message = DynamicMessage::new(descriptor);
        if message.transcode_from(config).is_ok() {
            collect(&message, "", &mut set);
        }
    }
    set
}

fn describe(message: &MessageDescriptor, prefix: &str, all: &mut Vec<Field>) {
    for field in message.fields() {
        let inner = inner(&field);
        let path = join(prefix, field.name());
        all.push(Field { path: path.clone(), is_message: inner.is_some() });
        if let Some(inner) = inner {
            describe(&inner, &path, all);
        }
    }
}

/// The message that the field holds, one or many of it. No message of Triton's holds itself.
fn inner(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let kind = match field.kind() {
        Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    match kind {
        Kind::Message(message) => Some(message),
        _ => None,
    }
}

fn collect(message: &DynamicMessage, prefix: &str, set: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        let path = join(prefix, field.name());
        match value {
            Value::Message(inner) => collect(inner, &path, set),
            Value::List(items) => items.iter().for_each(|item| collect_value(item, &path, set)),
            Value::Map(entries) => entries.values().for_each(|item| collect_value(item, &path, set)),
            _ => {}
        }
        set.insert(path);
    }
}

fn collect_value(value: &Value, path: &str, set: &mut BTreeSet<String>) {
    if let Value::Message(inner) = value {
        collect(inner, path, set);
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}
