use std::path::Path;

use engine::BufferMut;
use serve::{ClassifyConfig, DetectConfig, EmbedConfig, ImageConfig, ModelConfig, TextConfig};
use wire::NamedTensor;

use crate::classify::{self, Label};
use crate::detect::{self, Detection};
use crate::labels::Labels;
use crate::tensor::{self, Prepared};
use crate::text::{TEXT_LIMIT_BYTES, TEXTS_LIMIT_BYTES, Text, Tokens};
use crate::{Error, Outputs, Photo, Place, embed};

/// The blocks of a `model.toml` that are meant for this crate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Blocks<'a> {
    pub image: Option<&'a ImageConfig>,
    pub classify: Option<&'a ClassifyConfig>,
    pub detect: Option<&'a DetectConfig>,
    pub text: Option<&'a TextConfig>,
    pub embed: Option<&'a EmbedConfig>,
}

impl<'a> From<&'a ModelConfig> for Blocks<'a> {
    fn from(config: &'a ModelConfig) -> Self {
        Self {
            image: config.image.as_ref(),
            classify: config.classify.as_ref(),
            detect: config.detect.as_ref(),
            text: config.text.as_ref(),
            embed: config.embed.as_ref(),
        }
    }
}

/// What goes before and after one model: its blocks, checked, with the files they name.
#[derive(Debug)]
pub struct Plan {
    image: Option<ImageConfig>,
    classify: Option<(ClassifyConfig, Labels)>,
    detect: Option<(DetectConfig, Labels)>,
    text: Option<Text>,
    embed: Option<EmbedConfig>,
}

impl Plan {
    /// Reads the files that the blocks name, in the model's folder. A tokenizer takes some 50 ms.
    ///
    /// # Errors
    /// `Config` when a block makes no sense, `Tokenizer` when it cannot be read or is none.
    pub fn read(dir: &Path, blocks: Blocks<'_>) -> Result<Self, Error> {
        if let Some(image) = blocks.image {
            tensor::check(image)?;
        }
        if let Some(detect) = blocks.detect {
            detect::check(detect)?;
        }
        let labelled = |labels| Labels::read(dir, labels);
        Ok(Self {
            image: blocks.image.cloned(),
            classify: blocks.classify.map(|config| (config.clone(), labelled(config.labels.as_ref()))),
            detect: blocks.detect.map(|config| (config.clone(), labelled(config.labels.as_ref()))),
            text: blocks.text.map(|config| Text::read(dir, config)).transpose()?,
            embed: blocks.embed.cloned(),
        })
    }

    /// Whether there is an `[image]`.
    pub fn takes_photos(&self) -> bool {
        self.image.is_some()
    }

    /// Whether there is a `[text]`.
    pub fn takes_text(&self) -> bool {
        self.text.is_some()
    }

    /// Whether its answer is a vector.
    pub fn embeds(&self) -> bool {
        self.embed.is_some()
    }

    /// The photo as the model's input, in memory of the caller's: `allocate` gets its length in bytes.
    ///
    /// # Errors
    /// `Decode`, what `allocate` fails with, or `Config` for a model without `[image]`.
    pub fn photo<E: From<Error>>(
        &self,
        photo: Photo<'_>,
        allocate: impl FnOnce(usize) -> Result<BufferMut, E>,
    ) -> Result<Prepared, E> {
        let config = self.image.as_ref().ok_or_else(|| missing("image", "takes no photo"))?;
        let pixels = photo.decode()?;
        Ok(tensor::fill(&pixels, config, allocate(tensor::len(config))?)?)
    }

    /// The tokens of each text, in their order.
    ///
    /// # Errors
    /// `TextTooLong`, `Text`, or `Config` for a model without `[text]`.
    pub fn tokenise<T: AsRef<str>>(&self, texts: &[T]) -> Result<Vec<Tokens>, Error> {
        let text = self.text.as_ref().ok_or_else(|| missing("text", "takes no text"))?;
        let lengths = || texts.iter().map(|text| text.as_ref().len());
        let all = lengths().fold(0, usize::saturating_add);
        let longest = lengths().max().unwrap_or(0);
        if longest > TEXT_LIMIT_BYTES || all > TEXTS_LIMIT_BYTES {
            let bytes = if longest > TEXT_LIMIT_BYTES { longest } else { all };
            return Err(Error::TextTooLong { bytes });
        }
        texts.iter().map(|one| text.tokenise(one.as_ref())).collect()
    }

    /// Tokens that the client made itself, completed by the special ones and cut to `max_tokens`.
    ///
    /// # Errors
    /// `Text` when the model has no such token, or `Config` for a model without `[text]`.
    pub fn complete(&self, ids: &[u32]) -> Result<Tokens, Error> {
        self.text.as_ref().ok_or_else(|| missing("text", "takes no text"))?.complete(ids)
    }

    /// The model's inputs, a row for each sentence, padded to the longest, in memory of the caller's: `allocate` gets
    /// the length of each in bytes.
    ///
    /// # Errors
    /// `Text` without a row, what `allocate` fails with, or `Config` for a model without `[text]`.
    pub fn text<E: From<Error>>(
        &self,
        rows: &[&Tokens],
        allocate: impl FnMut(usize) -> Result<BufferMut, E>,
    ) -> Result<Vec<NamedTensor>, E> {
        self.text.as_ref().ok_or_else(|| missing("text", "takes no text"))?.inputs(rows, allocate)
    }

    /// The best classes of the first row; nothing for a model without `[classify]`.
    ///
    /// # Errors
    /// `Output` when the model does not answer what the configuration promises.
    pub fn classify(&self, outputs: &(impl Outputs + ?Sized)) -> Result<Option<Vec<Label>>, Error> {
        let Some((config, labels)) = &self.classify else { return Ok(None) };
        classify::classify(outputs, config, labels).map(Some)
    }

    /// The objects, in pixels of the photo that lies at `place`; nothing for a model without `[detect]` and `[image]`.
    ///
    /// # Errors
    /// `Output` when the model does not answer what the configuration promises.
    pub fn detect(
        &self,
        outputs: &(impl Outputs + ?Sized),
        place: Place,
    ) -> Result<Option<Vec<Detection>>, Error> {
        let (Some((config, labels)), Some(image)) = (&self.detect, &self.image) else { return Ok(None) };
        detect::detect(outputs, config, labels, [image.width, image.height], place).map(Some)
    }

    /// A vector for each row, whose own tokens are so many; nothing for a model without `[embed]`.
    ///
    /// # Errors
    /// `Output` when the model does not answer what the configuration promises.
    pub fn embed(
        &self,
        outputs: &(impl Outputs + ?Sized),
        tokens: &[usize],
    ) -> Result<Option<Vec<Vec<f32>>>, Error> {
        let Some(config) = &self.embed else { return Ok(None) };
        embed::embed(outputs, config, tokens).map(Some)
    }
}

fn missing(block: &'static str, detail: &str) -> Error {
    Error::Config { block, detail: format!("is missing: the model {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_a_block_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::read(dir.path(), Blocks::default()).unwrap();
        let check = |error: Error, part: &str| {
            assert!(!error.is_of_the_request() && error.to_string().contains(part), "{error}");
        };
        assert!(!plan.takes_photos() && !plan.takes_text() && !plan.embeds());
        check(plan.tokenise(&["x"]).unwrap_err(), "[text]");
        check(plan.complete(&[1]).unwrap_err(), "[text]");
        let outputs: &[NamedTensor] = &[];
        assert_eq!(plan.classify(outputs).unwrap(), None);
        assert_eq!(plan.embed(outputs, &[1]).unwrap(), None);
    }

    #[test]
    fn objects_are_in_pixels_of_the_photo() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(dir.path().join("labels.txt")).unwrap();
        std::io::Write::write_all(&mut file, b"cat\ndog\n").unwrap();
        let image: ImageConfig =
            toml::from_str("input = \"x\"\nwidth = 8\nheight = 8\nresize = \"stretch\"").unwrap();
        let detect: DetectConfig = toml::from_str(
            "kind = \"nanodet\"\nlabels = \"labels.txt\"\nstrides = [8]\nscores = [\"s\"]\nboxes = [\"b\"]\n\
             reg_max = 1\nscore_threshold = 0.5\niou_threshold = 0.5",
        )
        .unwrap();
        let blocks = Blocks { image: Some(&image), detect: Some(&detect), ..Blocks::default() };
        let plan = Plan::read(dir.path(), blocks).unwrap();
        // Every side's two bins weigh the same: half a stride, so the box is the whole cell.
        let output = |name: &str, shape: Vec<usize>, values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let data = engine::Buffer::copy_from(&bytes);
            let tensor = engine::Tensor::new(engine::DataType::Fp32, shape, data).unwrap();
            NamedTensor { name: name.to_owned(), tensor }
        };
        let outputs = [output("s", vec![1, 1, 2], &[0.25, 0.875]), output("b", vec![1, 1, 8], &[0.0; 8])];
        let place = Place { scale: [2.0, 4.0], offset: [0.0, 0.0], photo: [16.0, 32.0] };
        let dog =
            Detection { index: 1, label: "dog".to_owned(), score: 0.875, corners: [0.0, 0.0, 16.0, 32.0] };
        assert_eq!(plan.detect(&outputs[..], place).unwrap(), Some(vec![dog]));
        let error = plan.detect(&outputs[..1], place).unwrap_err();
        assert!(error.to_string().contains("'b'"), "{error}");
    }
}
