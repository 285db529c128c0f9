//! `model.toml`, beside a model's versions: what is Mast's own about it. Every key is optional, an unknown
//! one is an error that names it and its line.
//!
//! ```toml
//! providers = ["tensorrt", "cuda", "cpu"]  # tried in this order
//! require = "cuda"                # the load fails unless this one runs every node but shape arithmetic
//! max_batch_size = 8              # rows of a batch; 0 or absent: one request at a time, whatever its shape
//! batch_delay_us = 500            # how long a batch may wait for more members
//! queue_limit = 64                # requests that may wait; default: the agent's
//! threads = 2                     # inside one operator, at most 1024; 0: the backend chooses
//! spinning = false                # idle threads spin; absent: the backend chooses
//! device_memory_limit_bytes = 1073741824
//! warmup = false                  # default true: one run with zeros before the model serves
//!
//! [image]                         # how a photo becomes the input
//! input = "image"
//! width = 224
//! height = 224
//! layout = "nchw"                 # nchw | nhwc
//! channels = "rgb"                # rgb | bgr
//! resize = "crop"                 # crop: shorter side first, then the centre | stretch | letterbox
//! mean = [127.0, 127.0, 127.0]    # (value - mean) / std, values 0 to 255, in the order of `channels`
//! std = [128.0, 128.0, 128.0]
//!
//! [classify]                      # how an output becomes classes
//! output = "logits"
//! labels = "labels.txt"           # beside model.toml, one a line
//! softmax = true
//! top = 5
//!
//! [detect]                        # how outputs become boxes
//! kind = "nanodet"
//! labels = "labels.txt"
//! strides = [8, 16, 32]           # one per head
//! scores = ["scores_8", "scores_16", "scores_32"]  # outputs [1, cells, classes], a stride each
//! boxes = ["boxes_8", "boxes_16", "boxes_32"]      # outputs [1, cells, 4 * (reg_max + 1)]
//! reg_max = 10
//! score_threshold = 0.4
//! iou_threshold = 0.5             # boxes of one class that overlap more are one
//! ```
//!
//! A model without `max_batch_size` does not batch, even where its axes would allow it: only its owner knows
//! whether rows are independent. This is Triton's default too.

use std::path::PathBuf;

use engine::{LoadOptions, Provider};
use serde::{Deserialize, Deserializer, de};

use crate::error::{Error, located};
use crate::media_config::{EmbedConfig, TextConfig};

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    #[serde(deserialize_with = "providers")]
    pub providers: Vec<Provider>,
    #[serde(deserialize_with = "provider")]
    pub require: Option<Provider>,
    /// Rows of a batch; 0 is no batching, as in Triton: a request's shape is then the whole shape.
    pub max_batch_size: usize,
    pub batch_delay_us: u64,
    pub queue_limit: Option<usize>,
    pub threads: usize,
    pub spinning: Option<bool>,
    pub device_memory_limit_bytes: Option<u64>,
    pub warmup: bool,
    pub image: Option<ImageConfig>,
    pub classify: Option<ClassifyConfig>,
    pub detect: Option<DetectConfig>,
    pub text: Option<TextConfig>,
    pub embed: Option<EmbedConfig>,
}

/// More are a typing error that would cost gigabytes, and minutes, before the load could fail.
const MAX_THREADS: usize = 1024;

impl Default for ModelConfig {
    fn default() -> Self {
        let LoadOptions { providers, require, threads, spinning, device_memory_limit_bytes, isolation: _ } =
            LoadOptions::default();
        Self {
            providers,
            require,
            max_batch_size: 0,
            batch_delay_us: 0,
            queue_limit: None,
            threads,
            spinning,
            device_memory_limit_bytes,
            warmup: true,
            image: None,
            classify: None,
            detect: None,
            text: None,
            embed: None,
        }
    }
}

impl ModelConfig {
    /// # Errors
    /// [`Error::Parse`] with the line and the key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| located("model.toml", text, &error))?;
        let refuse =
            |detail: &str| Err(Error::Parse { what: "model.toml", line: None, detail: detail.to_owned() });
        if config.providers.is_empty() {
            return refuse("providers is empty: name at least one");
        }
        if config.queue_limit == Some(0) {
            return refuse("queue_limit is 0: no request could ever be queued");
        }
        if config.threads > MAX_THREADS {
            return refuse(&format!("threads is {}: at most {MAX_THREADS}", config.threads));
        }
        Ok(config)
    }

    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions {
            providers: self.providers.clone(),
            require: self.require,
            threads: self.threads,
            spinning: self.spinning,
            device_memory_limit_bytes: self.device_memory_limit_bytes,
            isolation: None,
        }
    }
}

/// How a photo becomes the model's input.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    pub input: String,
    pub width: u32,
    pub height: u32,
    #[serde(default)]
    pub layout: Layout,
    #[serde(default)]
    pub channels: Channels,
    #[serde(default)]
    pub resize: Resize,
    /// Subtracted from values of 0 to 255, in the order of `channels`.
    #[serde(default)]
    pub mean: [f32; 3],
    #[serde(default = "ones")]
    pub std: [f32; 3],
}

fn ones() -> [f32; 3] {
    [1.0; 3]
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    #[default]
    Nchw,
    Nhwc,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    #[default]
    Rgb,
    Bgr,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The shorter side to the size, then the centre.
    #[default]
    Crop,
    /// Both sides to the size, whatever the aspect.
    Stretch,
    /// The longer side to the size, the rest black.
    Letterbox,
}

/// How an output becomes classes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyConfig {
    pub output: String,
    /// Relative to the model's folder.
    pub labels: Option<PathBuf>,
    /// Whether the output still needs a softmax.
    #[serde(default)]
    pub softmax: bool,
    #[serde(default = "five")]
    pub top: usize,
}

fn five() -> usize {
    5
}

/// How outputs become boxes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetectConfig {
    pub kind: DetectKind,
    pub labels: Option<PathBuf>,
    /// Pixels of the input per cell, one per head.
    pub strides: Vec<u32>,
    /// Outputs `[1, cells, classes]`, one per stride.
    pub scores: Vec<String>,
    /// Outputs `[1, cells, 4 * (reg_max + 1)]`, one per stride.
    pub boxes: Vec<String>,
    pub reg_max: u32,
    pub score_threshold: f32,
    pub iou_threshold: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectKind {
    /// Class scores and box edges as distributions over distances, per stride.
    Nanodet,
}

fn providers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Provider>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| parse_provider(name)).collect()
}

fn provider<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Provider>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| parse_provider(&name)).transpose()
}

fn parse_provider<E: de::Error>(name: &str) -> Result<Provider, E> {
    name.parse().map_err(|error| E::custom(format!("`{name}` is {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_key_and_the_line() {
        let check = |text: &str, expected: &[&str]| {
            let error = ModelConfig::parse(text).unwrap_err().to_string();
            for part in expected {
                assert!(error.contains(part), "{text:?} gave {error:?}");
            }
        };
        check("threads = 1\nmax_batchsize = 4\n", &["max_batchsize", "line 2"]);
        check("providers = [\"rocm\"]", &["rocm", "line 1", "tensorrt, cuda, wgpu or cpu"]);
        check("require = \"gpu\"", &["gpu", "line 1"]);
        check("providers = []", &["providers"]);
        check("queue_limit = 0", &["queue_limit"]);
        check("threads = 100000", &["threads", "at most 1024"]);
        check("\n[image]\ninput = \"x\"\nwidth = 1\nheight = 1\nbgr = true", &["bgr", "line 6"]);
    }

    #[test]
    fn the_example_of_the_module_doc_is_valid() {
        let doc: String = include_str!("model_config.rs")
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect();
        let config = ModelConfig::parse(&doc).unwrap();
        assert_eq!((config.max_batch_size, config.detect.unwrap().strides.len()), (8, 3));
        assert_eq!(ModelConfig::parse("").unwrap(), ModelConfig::default());
    }
}
