//! `config.pbtxt`: Triton's `ModelConfig` in protobuf's text format, and as the JSON of a load request.
//!
//! In: text that may come from the network, at most [`LIMIT_BYTES`] long and [`LIMIT_DEPTH`] deep. Out: the message,
//! or where the text is wrong. [`set_fields`] tells which fields somebody wrote, so that none has to be ignored.

mod fields;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use miette::Diagnostic;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};

use crate::ModelConfig;

pub use fields::{Field, fields, set_fields};

/// Bytes of a text.
pub const LIMIT_BYTES: usize = 1 << 20;

/// Brackets inside brackets. Triton's own messages need seven.
pub const LIMIT_DEPTH: usize = 32;

const MESSAGE: &str = "inference.ModelConfig";

/// Why a text is no model configuration. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the text has {bytes} bytes: at most {LIMIT_BYTES}")]
    TooLong { bytes: usize },
    #[error("line {line}, column {column}: more than {LIMIT_DEPTH} brackets inside each other")]
    TooDeep { line: usize, column: usize },
    #[error("line {line}, column {column}: {detail}")]
    Syntax { line: usize, column: usize, detail: String },
}

static DESCRIPTOR: LazyLock<Option<MessageDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(include_bytes!("generated/descriptors.bin").as_slice()).ok()?;
    pool.get_message_by_name(MESSAGE)
});

/// The descriptor is made when this crate is; a test proves that it is there.
fn descriptor() -> Result<MessageDescriptor, Error> {
    let missing = || Error::Syntax { line: 1, column: 1, detail: format!("{MESSAGE} has no descriptor") };
    DESCRIPTOR.clone().ok_or_else(missing)
}

/// Reads the text format.
///
/// # Errors
/// [`Error`], with the place and the name of a field that Triton does not have.
pub fn parse(text: &str) -> Result<ModelConfig, Error> {
    let lists = scan(text)?;
    let message =
        DynamicMessage::parse_text_format(descriptor()?, &with_colons(text, &lists)).map_err(|error| {
            let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
            let offset = offset.map(|offset| without_colons(offset, &lists));
            syntax(text, offset.unwrap_or(text.len()), error.to_string())
        })?;
    message.transcode_to().map_err(|error| syntax(text, 0, error.to_string()))
}

/// Reads JSON, as the `config` parameter of a load request has it.
///
/// # Errors
/// As [`parse`].
pub fn parse_json(text: &str) -> Result<ModelConfig, Error> {
    scan(text)?;
    let wrong = |error: serde_json::Error| {
        let text = error.to_string();
        let detail = text.split(" at line ").next().unwrap_or_default().to_owned();
        Error::Syntax { line: error.line().max(1), column: error.column().max(1), detail }
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message =
        DynamicMessage::deserialize_with_options(descriptor()?, &mut json, &options).map_err(wrong)?;
    json.end().map_err(wrong)?;
    message.transcode_to().map_err(|error| syntax(text, 0, error.to_string()))
}

/// Checks the bounds. Both formats nest by brackets and quote in the same way; JSON has no comments, and no `#`
/// outside of quotes. Returns where a list follows its name without a colon.
fn scan(text: &str) -> Result<Vec<usize>, Error> {
    if text.len() > LIMIT_BYTES {
        return Err(Error::TooLong { bytes: text.len() });
    }
    let mut lists = Vec::new();
    let (mut depth, mut quote, mut escaped, mut comment) = (0_usize, None, false, false);
    let mut after_name = false;
    for (offset, byte) in text.bytes().enumerate() {
        match (byte, quote) {
            (b'\n', _) => (comment, quote, escaped) = (false, None, false),
            _ if comment => {}
            (_, Some(_)) if escaped => escaped = false,
            (b'\\', Some(_)) => escaped = true,
            (byte, Some(open)) if byte == open => quote = None,
            (_, Some(_)) => {}
            (b'"' | b'\'', None) => quote = Some(byte),
            (b'#', None) => comment = true,
            (b'{' | b'<' | b'[', None) => {
                if byte == b'[' && after_name {
                    lists.push(offset);
                }
                depth += 1;
                if depth > LIMIT_DEPTH {
                    let (line, column) = place(text, offset);
                    return Err(Error::TooDeep { line, column });
                }
            }
            (b'}' | b'>' | b']', None) => depth = depth.saturating_sub(1),
            _ => {}
        }
        let blank = comment || byte.is_ascii_whitespace();
        after_name = if blank { after_name } else { byte.is_ascii_alphanumeric() || byte == b'_' };
    }
    Ok(lists)
}

/// The text format lets a list of messages follow its name without a colon, and all of Triton's examples do; our
/// parser wants one.
fn with_colons(text: &str, lists: &[usize]) -> String {
    let mut whole = String::with_capacity(text.len() + lists.len());
    let mut from = 0;
    for &at in lists {
        whole.push_str(text.get(from..at).unwrap_or_default());
        whole.push(':');
        from = at;
    }
    whole.push_str(text.get(from..).unwrap_or_default());
    whole
}

/// An offset in the text that was given.
fn without_colons(offset: usize, lists: &[usize]) -> usize {
    offset - lists.iter().enumerate().take_while(|(before, at)| **at + before < offset).count()
}

fn syntax(text: &str, offset: usize, detail: String) -> Error {
    let (line, column) = place(text, offset);
    Error::Syntax { line, column, detail: detail.replace('\n', " ") }
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset.min(text.len())).unwrap_or_default();
    let before = String::from_utf8_lossy(before);
    let column = before.chars().rev().take_while(|it| *it != '\n').count() + 1;
    (before.matches('\n').count() + 1, column)
}
