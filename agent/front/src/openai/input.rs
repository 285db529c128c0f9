use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::Fault;
use crate::json::Object;

/// OpenAI's limit on one request.
const INPUTS_LIMIT: usize = 2048;

/// The body of `POST /v1/embeddings`. Members that are not named, such as `user`, change nothing.
#[derive(Debug, Deserialize)]
pub(super) struct Request<'a> {
    pub(super) model: String,
    #[serde(borrow)]
    input: &'a RawValue,
    #[serde(default)]
    pub(super) encoding_format: Format,
    pub(super) dimensions: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    #[default]
    Float,
    /// Of little-endian f32.
    Base64,
}

/// What is to be embedded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inputs {
    Texts(Vec<String>),
    /// Numbers of the model's own tokenizer, without its special tokens.
    Tokens(Vec<Vec<u32>>),
}

impl<'a> Request<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Fault> {
        let read = serde_json::from_slice(body).map(|Object(request)| request);
        read.map_err(|error| {
            let text = format!("We could not parse the JSON body of your request: {error}");
            wire::Error::invalid(text).into()
        })
    }

    /// A string, strings, an array of tokens, or arrays of tokens.
    pub(super) fn inputs(&self) -> Result<Inputs, Fault> {
        let text = self.input.get();
        let inner = text.strip_prefix('[').map(str::trim_start);
        let inputs = match (text.as_bytes().first(), inner.and_then(|inner| inner.bytes().next())) {
            (Some(b'"'), _) => parse(text).map(|one| Inputs::Texts(vec![one])),
            (_, Some(b'"')) => parse(text).map(Inputs::Texts),
            (_, Some(b'[')) => parse(text).map(Inputs::Tokens),
            (_, Some(b'0'..=b'9')) => parse(text).map(|one| Inputs::Tokens(vec![one])),
            _ => Err("'input' must be a string, an array of strings, or an array of tokens, and not empty"
                .to_owned()),
        };
        let inputs = inputs.map_err(|text| Fault::invalid("input", text))?;
        let (count, empty) = match &inputs {
            Inputs::Texts(texts) => (texts.len(), texts.iter().any(String::is_empty)),
            Inputs::Tokens(rows) => (rows.len(), rows.iter().any(Vec::is_empty)),
        };
        if count > INPUTS_LIMIT {
            return Err(Fault::invalid(
                "input",
                format!("'input' has {count} items; at most {INPUTS_LIMIT} are taken"),
            ));
        }
        if empty {
            return Err(Fault::invalid("input", "'input' cannot be or have an empty string or array"));
        }
        Ok(inputs)
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("'input' is of mixed or unknown types: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_input() {
        let check = |input: &str, expected: Option<Inputs>| {
            let body = format!("{{\"model\": \"m\", \"input\": {input}, \"user\": \"u\"}}");
            let request = Request::read(body.as_bytes()).unwrap();
            assert_eq!(request.inputs().ok(), expected, "{input}");
        };
        let texts = |texts: &[&str]| Some(Inputs::Texts(texts.iter().map(|&text| text.to_owned()).collect()));
        let tokens = |rows: &[&[u32]]| Some(Inputs::Tokens(rows.iter().map(|row| row.to_vec()).collect()));
        check("\"a\"", texts(&["a"]));
        check("[\n\"a\", \"\\u00fc\"]", texts(&["a", "\u{fc}"]));
        check("[1, 2]", tokens(&[&[1, 2]]));
        check("[[1], [2, 3]]", tokens(&[&[1], &[2, 3]]));
        for wrong in [
            "\"\"",
            "[]",
            "[\"\"]",
            "[[]]",
            "null",
            "7",
            "{}",
            "[\"a\", 1]",
            "[1, \"a\"]",
            "[[1], 2]",
            "[-1]",
            "[1.5]",
            "[4294967296]",
            "[null]",
        ] {
            check(wrong, None);
        }
        check(&format!("[{}]", vec!["\"a\""; INPUTS_LIMIT + 1].join(",")), None);
    }

    #[test]
    fn a_body_that_is_no_request() {
        for wrong in
            ["", "{", "[]", "{\"model\": \"m\"}", "{\"input\": \"a\"}", "{\"model\": 1, \"input\": \"a\"}"]
        {
            assert!(Request::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let format = |text: &str| {
            let body = format!("{{\"model\": \"m\", \"input\": \"a\", \"encoding_format\": {text}}}");
            Request::read(body.as_bytes()).ok().map(|request| request.encoding_format)
        };
        assert_eq!((format("\"base64\""), format("\"float\"")), (Some(Format::Base64), Some(Format::Float)));
        assert_eq!(format("\"hex\""), None);
    }
}
