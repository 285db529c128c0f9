use std::path::PathBuf;

use crate::photo::PIXEL_LIMIT;
use crate::text::{TEXT_LIMIT_BYTES, TEXTS_LIMIT_BYTES};

/// Why there is no tensor, or no meaning.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a JPEG or PNG photo")]
    NotAPhoto,
    #[error("the photo has {width} x {height} pixels; at most {PIXEL_LIMIT} are decoded")]
    TooManyPixels { width: u32, height: u32 },
    #[error("the photo is cut off: it has no end")]
    CutOff,
    #[error("the photo has {components} colour components, as for printing; send RGB or grey")]
    Colours { components: u8 },
    #[error("cannot decode the photo")]
    Decode { source: image::ImageError },
    #[error(
        "the text has {bytes} bytes; at most {TEXT_LIMIT_BYTES} are read of one and {TEXTS_LIMIT_BYTES} of all"
    )]
    TextTooLong { bytes: usize },
    #[error("{detail}")]
    Text { detail: String },
    #[error("cannot use the tokenizer {}: {detail}", path.display())]
    Tokenizer { path: PathBuf, detail: String },
    #[error("[{block}] of model.toml: {detail}")]
    Config { block: &'static str, detail: String },
    #[error("output '{output}': {detail}")]
    Output { output: String, detail: String },
}

impl Error {
    /// Whether the photo or the text is at fault; otherwise the model's folder or its outputs are.
    pub fn is_of_the_request(&self) -> bool {
        match self {
            Self::NotAPhoto
            | Self::TooManyPixels { .. }
            | Self::CutOff
            | Self::Colours { .. }
            | Self::Decode { .. }
            | Self::TextTooLong { .. }
            | Self::Text { .. } => true,
            Self::Tokenizer { .. } | Self::Config { .. } | Self::Output { .. } => false,
        }
    }

    pub(crate) fn output(output: &str, detail: impl Into<String>) -> Self {
        Self::Output { output: output.to_owned(), detail: detail.into() }
    }
}
