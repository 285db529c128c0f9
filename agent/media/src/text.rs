//! Sentences into the model's inputs.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use engine::{BufferMut, DataType, Tensor};
use serve::TextConfig;
use tokenizers::{Encoding, PostProcessor as _, Token, Tokenizer, TruncationParams};
use wire::NamedTensor;

use crate::Error;

/// The longest sentence that is read. Only its first tokens count, but where they end is known after reading.
pub const TEXT_LIMIT_BYTES: usize = 64 << 10;
/// All sentences of one request: about a second of one core.
pub const TEXTS_LIMIT_BYTES: usize = 1 << 20;

const FILE_LIMIT_BYTES: u64 = 64 << 20;
const MAX_TOKENS: usize = 65_536;

/// A sentence as the model reads it: numbers of its tokens, special ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens(Vec<u32>);

impl Tokens {
    pub fn ids(&self) -> &[u32] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) struct Text {
    config: TextConfig,
    tokenizer: Tokenizer,
    padding: u32,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Text {
    pub(crate) fn read(dir: &Path, config: &TextConfig) -> Result<Self, Error> {
        let path = dir.join(&config.tokenizer);
        let failed = |detail: String| Error::Tokenizer { path: path.clone(), detail };
        let bytes = read(&path).map_err(|error| failed(error.to_string()))?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| failed(error.to_string()))?;
        // What the file says of them is for training; here they follow from the request.
        let padding = tokenizer.get_padding().map_or(0, |padding| padding.pad_id);
        tokenizer.with_padding(None);
        let special = tokenizer.get_post_processor().map_or(0, |post| post.added_tokens(false));
        if !(special + 1..=MAX_TOKENS).contains(&config.max_tokens) {
            let detail = format!(
                "max_tokens is {}; with {special} special tokens it must be {} to {MAX_TOKENS}",
                config.max_tokens,
                special + 1
            );
            return Err(Error::Config { block: "text", detail });
        }
        let cut = TruncationParams { max_length: config.max_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(cut)).map_err(|error| failed(error.to_string()))?;
        Ok(Self { config: config.clone(), tokenizer, padding })
    }

    pub(crate) fn tokenise(&self, text: &str) -> Result<Tokens, Error> {
        let encoding = self.tokenizer.encode_fast(text, true);
        self.tokens(
            &encoding.map_err(|error| Error::Text { detail: format!("cannot be tokenised: {error}") })?,
        )
    }

    /// Tokens that the client made itself, without the special ones.
    pub(crate) fn complete(&self, ids: &[u32]) -> Result<Tokens, Error> {
        let token = |id: &u32| {
            let known = self.tokenizer.id_to_token(*id);
            let known =
                known.ok_or_else(|| Error::Text { detail: format!("the model has no token {id}") })?;
            Ok(Token::new(*id, known, (0, 0)))
        };
        // What is longer would only be cut again.
        let ids = ids.iter().take(self.config.max_tokens);
        let encoding = Encoding::from_tokens(ids.map(token).collect::<Result<_, _>>()?, 0);
        let encoding = self.tokenizer.post_process(encoding, None, true);
        self.tokens(&encoding.map_err(|error| Error::Text { detail: error.to_string() })?)
    }

    fn tokens(&self, encoding: &Encoding) -> Result<Tokens, Error> {
        match encoding.get_ids() {
            [] => Err(Error::Text { detail: "the text has no token".to_owned() }),
            ids => Ok(Tokens(ids.iter().copied().take(self.config.max_tokens).collect())),
        }
    }

    /// Bytes of each of the inputs.
    pub(crate) fn len(rows: &[&Tokens]) -> usize {
        rows.len() * columns(rows) * size_of::<i64>()
    }

    /// The inputs, a row for each sentence, as long as the longest.
    pub(crate) fn inputs<E: From<Error>>(
        &self,
        rows: &[&Tokens],
        mut allocate: impl FnMut(usize) -> Result<BufferMut, E>,
    ) -> Result<Vec<NamedTensor>, E> {
        let columns = columns(rows);
        if columns == 0 {
            return Err(Error::Text { detail: "there is no text".to_owned() }.into());
        }
        let names = &self.config.inputs;
        let padding = i64::from(self.padding);
        // Name, value of a token, value of padding.
        let inputs = [
            (Some(&names.ids), None, padding),
            (names.mask.as_ref(), Some(1), 0),
            (names.types.as_ref(), Some(0), 0),
        ];
        let mut tensors = Vec::with_capacity(inputs.len());
        for (name, same, padding) in inputs {
            let Some(name) = name else { continue };
            let mut buffer = allocate(Self::len(rows))?;
            let (elements, _) = buffer.bytes_mut().as_chunks_mut::<{ size_of::<i64>() }>();
            for (place, row) in elements.chunks_exact_mut(columns).zip(rows) {
                for (column, element) in place.iter_mut().enumerate() {
                    let token = row.0.get(column).map(|id| same.unwrap_or(i64::from(*id)));
                    *element = token.unwrap_or(padding).to_le_bytes();
                }
            }
            let tensor = Tensor::new(DataType::Int64, vec![rows.len(), columns], buffer.freeze());
            let failed =
                |error: engine::TensorError| Error::Config { block: "text", detail: error.to_string() };
            tensors.push(NamedTensor { name: name.clone(), tensor: tensor.map_err(failed)? });
        }
        Ok(tensors)
    }
}

fn columns(rows: &[&Tokens]) -> usize {
    rows.iter().map(|row| row.len()).max().unwrap_or(0)
}

fn read(path: &PathBuf) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_LIMIT_BYTES {
        return Err(std::io::Error::other(format!("is longer than {FILE_LIMIT_BYTES} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
