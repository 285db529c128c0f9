//! What `model.toml` says of a model that reads text, and of one whose output is a vector. The blocks of photos,
//! classes and boxes are in `model_config`; what is done with all of them is the crate `media`'s.
//!
//! ```toml
//! [text]                          # how sentences become the inputs
//! tokenizer = "tokenizer.json"    # beside model.toml, in the format of Hugging Face's tokenizers
//! max_tokens = 256                # of a sentence, its special tokens included; what is longer is cut
//! inputs = { ids = "input_ids", mask = "attention_mask", types = "token_type_ids" }
//!
//! [embed]                         # how an output becomes a vector
//! output = "last_hidden_state"    # FP32
//! pool = "mean"                   # mean: over the tokens of the sentence | cls: the first | none: it is a vector already
//! normalise = true                # to length 1
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How sentences become the model's inputs, each INT64 `[rows, tokens]`, the shorter rows padded.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Relative to the model's folder.
    pub tokenizer: PathBuf,
    /// Special tokens included.
    pub max_tokens: usize,
    pub inputs: TextInputs,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self { tokenizer: "tokenizer.json".into(), max_tokens: 256, inputs: TextInputs::default() }
    }
}

/// Names of the inputs. Without a table they are BERT's three; in a table, what is left out is not sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TextInputs {
    /// Numbers of the tokens; 0 where a row is padded.
    pub ids: String,
    /// 1 for a token, 0 for padding.
    pub mask: Option<String>,
    /// Which sentence of a pair a token is of: always 0.
    pub types: Option<String>,
}

impl Default for TextInputs {
    fn default() -> Self {
        Self {
            ids: "input_ids".to_owned(),
            mask: Some("attention_mask".to_owned()),
            types: Some("token_type_ids".to_owned()),
        }
    }
}

/// How an output becomes one vector a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedConfig {
    pub output: String,
    #[serde(default)]
    pub pool: Pool,
    /// To length 1.
    #[serde(default = "yes")]
    pub normalise: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// `[rows, tokens, size]`: the mean over the row's own tokens.
    #[default]
    Mean,
    /// `[rows, tokens, size]`: the first token's.
    Cls,
    /// `[rows, size]`: a vector already.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Blocks {
        text: Option<TextConfig>,
        embed: Option<EmbedConfig>,
    }

    #[test]
    fn the_example_of_the_module_doc_is_the_default() {
        let doc: String = include_str!("media_config.rs")
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect();
        let blocks: Blocks = toml::from_str(&doc).unwrap();
        assert_eq!(blocks.text.unwrap(), TextConfig::default());
        let short: Blocks = toml::from_str("[embed]\noutput = \"last_hidden_state\"").unwrap();
        assert_eq!(blocks.embed, short.embed);
    }

    #[test]
    fn inputs_that_are_left_out_are_not_sent() {
        let check = |text: &str, mask: Option<&str>, types: Option<&str>| {
            let inputs = toml::from_str::<TextConfig>(text).unwrap().inputs;
            assert_eq!((inputs.mask.as_deref(), inputs.types.as_deref()), (mask, types), "{text}");
        };
        check("", Some("attention_mask"), Some("token_type_ids"));
        check("inputs = { ids = \"x\" }", None, None);
        check("inputs = { ids = \"x\", mask = \"m\" }", Some("m"), None);
        assert!(toml::from_str::<TextConfig>("max_token = 3").is_err());
        assert!(toml::from_str::<TextConfig>("inputs = { mask = \"m\" }").is_err());
    }
}
