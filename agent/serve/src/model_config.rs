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
//! instances = 2                   # that run at the same time, at most 64
//! isolation = "process"           # none | process; absent: the agent chooses
//! versions = "all"                # which are served: "all", the latest n, or a list; default 1
//! preferred_batch_sizes = [4, 8]  # a batch of such a size does not wait for more
//! preserve_ordering = false       # replies leave in the order of their requests
//!
//! [priority]                      # level 1 goes first
//! levels = 2
//! default_level = 2               # of requests that name none
//! default_queue = { max_queue_size = 32, default_timeout_us = 0, allow_timeout_override = true, timeout_action = "reject" }
//! queues = { 1 = { max_queue_size = 8, timeout_action = "delay" } }
//!
//! [sequence]                      # a model that keeps state between the requests of a sequence
//! max_idle_us = 5000000           # a sequence that is not continued for so long ends
//! max_sequences = 100             # more at a time are refused
//! state = [{ input = "h", output = "hn", shape = [2, 1, 64] }]
//! controls = [{ input = "first", kind = "start", false_true = { fp32 = [0.0, 1.0] } }]
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
//! whether rows are independent. A folder with neither `model.toml` nor `config.pbtxt`, and a `config.pbtxt` that
//! leaves inputs or outputs out, is completed as Triton does it (`ModelConfig::complete`).
//!
//! Beside a `config.pbtxt` ([`pbtxt`]) this file says only what Triton has no word for: a key that both say is an
//! error that names both.

mod batching;
mod fields;
mod media;
mod pbtxt;
mod sequence;
mod tensors;
#[cfg(test)]
mod tests;
mod versions;
mod warmup;

use std::collections::BTreeSet;
use std::path::{Component, Path};

use engine::{Isolation, LoadOptions, Provider, Signature};
use serde::{Deserialize, Deserializer, de};

use crate::error::{Error, located};
use crate::media_config::{EmbedConfig, TextConfig};

pub use batching::{PriorityConfig, QueuePolicy, TimeoutAction};
pub use media::{Channels, ClassifyConfig, DetectConfig, DetectKind, ImageConfig, Layout, Resize};
pub use sequence::{ControlConfig, ControlKind, Flag, SequenceConfig, StateConfig};
pub use tensors::TensorConfig;
pub(crate) use tensors::{Shown, show};
pub use versions::VersionPolicy;
pub use warmup::{WarmupData, WarmupInput, WarmupSample};

/// What is asked of a model, by `model.toml`, `config.pbtxt` or both.
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
    /// Engines that run at the same time.
    pub instances: usize,
    #[serde(deserialize_with = "isolation")]
    pub isolation: Option<Isolation>,
    #[serde(rename = "versions")]
    pub version_policy: VersionPolicy,
    pub preferred_batch_sizes: Vec<usize>,
    pub preserve_ordering: bool,
    pub priority: PriorityConfig,
    pub sequence: Option<SequenceConfig>,
    pub image: Option<ImageConfig>,
    pub classify: Option<ClassifyConfig>,
    pub detect: Option<DetectConfig>,
    pub text: Option<TextConfig>,
    pub embed: Option<EmbedConfig>,

    /// Whether requests share batches. Only a `config.pbtxt` can set `max_batch_size` and no batcher.
    #[serde(skip)]
    pub dynamic_batching: bool,
    /// As the clients see them; empty is as the model has them.
    #[serde(skip)]
    pub inputs: Vec<TensorConfig>,
    #[serde(skip)]
    pub outputs: Vec<TensorConfig>,
    #[serde(skip)]
    pub warmup_samples: Vec<WarmupSample>,
    /// In a version's folder; `None` is `model.onnx`.
    #[serde(skip)]
    pub model_filename: Option<String>,
    /// Devices that the model names by their number.
    #[serde(skip)]
    pub gpus: Vec<u32>,
    #[serde(skip)]
    pub source: Source,
    /// Whether `ModelConfig::complete` has something to do.
    #[serde(skip)]
    pub completes: bool,
    /// What of the configuration is not as its owner wrote it.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// Which files a configuration comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    #[default]
    Nothing,
    /// `model.toml`
    Mast,
    /// `config.pbtxt`, or the `config` parameter of a load request
    Triton,
    Both,
}

/// More are a typing error that would cost gigabytes, and minutes, before the load could fail.
const MAX_THREADS: usize = 1024;
const MAX_INSTANCES: usize = 64;

impl Default for ModelConfig {
    fn default() -> Self {
        let LoadOptions { providers, require, threads, spinning, device_memory_limit_bytes, isolation } =
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
            instances: 1,
            isolation,
            version_policy: VersionPolicy::default(),
            preferred_batch_sizes: Vec::new(),
            preserve_ordering: false,
            priority: PriorityConfig::default(),
            sequence: None,
            image: None,
            classify: None,
            detect: None,
            text: None,
            embed: None,
            dynamic_batching: true,
            inputs: Vec::new(),
            outputs: Vec::new(),
            warmup_samples: Vec::new(),
            model_filename: None,
            gpus: Vec::new(),
            source: Source::Nothing,
            completes: false,
            warnings: Vec::new(),
        }
    }
}

impl ModelConfig {
    /// Reads a `model.toml`.
    ///
    /// # Errors
    /// [`Error::Parse`] with the line and the key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut config: Self = toml::from_str(text).map_err(|error| located("model.toml", text, &error))?;
        config.source = Source::Mast;
        config.check().map_err(|detail| Error::Parse { what: "model.toml", line: None, detail })?;
        Ok(config)
    }

    /// Reads the files of the model `name`: its `model.toml` and its `config.pbtxt`, where it has them.
    ///
    /// # Errors
    /// [`Error::Parse`] with the place and the key or field.
    pub fn read(name: &str, toml: Option<&str>, pbtxt: Option<Pbtxt<'_>>) -> Result<Self, Error> {
        let config = match toml {
            Some(text) => Self::parse(text)?,
            None => Self::default(),
        };
        let Some(pbtxt) = pbtxt else {
            return Ok(Self { completes: toml.is_none(), ..config });
        };
        let (what, parsed) = match pbtxt {
            Pbtxt::Text(text) => ("config.pbtxt", triton::config::parse(text)),
            Pbtxt::Json(text) => ("the config parameter", triton::config::parse_json(text)),
        };
        let refuse = |detail| Error::Parse { what, line: None, detail };
        let written = parsed.map_err(|error| refuse(error.to_string()))?;
        let mut keys = BTreeSet::new();
        if let Some(Ok(table)) = toml.map(str::parse::<toml::Table>) {
            keys.extend(table.into_iter().map(|(key, _)| key));
        }
        let mut config = config;
        pbtxt::apply(&mut config, &keys, name, written).map_err(refuse)?;
        config.check().map_err(refuse)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let refuse = |detail: &str| Err(detail.to_owned());
        if self.providers.is_empty() {
            return refuse("providers is empty: name at least one");
        }
        if self.queue_limit == Some(0) {
            return refuse("queue_limit is 0: no request could ever be queued");
        }
        if self.threads > MAX_THREADS {
            return Err(format!("threads is {}: at most {MAX_THREADS}", self.threads));
        }
        if !(1..=MAX_INSTANCES).contains(&self.instances) {
            return Err(format!("instances is {}: 1 to {MAX_INSTANCES}", self.instances));
        }
        let rows = if self.completes && self.max_batch_size == 0 { usize::MAX } else { self.max_batch_size };
        if let Some(size) = self.preferred_batch_sizes.iter().find(|size| !(1..=rows).contains(*size)) {
            return Err(format!("a preferred batch size is {size}: 1 to max_batch_size, {rows}"));
        }
        let divides = |image: &&ImageConfig| image.std.iter().all(|value| value.is_normal());
        if let Some(image) = self.image.as_ref().filter(|image| !divides(image)) {
            return Err(format!("[image] std is {:?}: pixels are divided by it", image.std));
        }
        self.version_policy.check()?;
        self.priority.check(self.preserve_ordering)?;
        self.sequence.as_ref().map_or(Ok(()), SequenceConfig::check)
    }

    /// Fills in what the files leave to the model, as Triton's ONNX Runtime backend does: where every tensor has a
    /// dynamic first axis, `max_batch_size` 0 becomes `default_max_batch_size` (Triton: 4) and requests share
    /// batches. The model's warnings say so, for only its owner knows whether rows are independent.
    pub(crate) fn complete(&mut self, signature: &Signature, default_max_batch_size: usize) {
        if self.completes && self.max_batch_size == 0 && signature.batches() && default_max_batch_size > 0 {
            self.max_batch_size = default_max_batch_size;
            self.warnings.push(format!(
                "max_batch_size was completed to {default_max_batch_size}, as Triton does it: the first axis of \
                 every tensor is dynamic. An empty model.toml serves requests one by one"
            ));
        }
    }

    /// The file with the names of an output's classes, relative to the model's folder.
    pub fn labels(&self, output: &str) -> Option<&Path> {
        let own =
            self.outputs.iter().find(|tensor| tensor.name == output).and_then(|it| it.labels.as_deref());
        let classify = || self.classify.as_ref().filter(|it| it.output == output)?.labels.as_deref();
        own.or_else(classify)
    }

    /// Tensors that the blocks of media name and the model does not have.
    pub(crate) fn check_media(&self, signature: &Signature) -> Result<(), Error> {
        let detect = self.detect.iter().flat_map(|it| it.scores.iter().chain(&it.boxes));
        let outputs = self.classify.iter().map(|it| ("[classify]", &it.output));
        let outputs = outputs.chain(detect.map(|name| ("[detect]", name)));
        let outputs = outputs.chain(self.embed.iter().map(|it| ("[embed]", &it.output)));
        let texts = self.text.iter().map(|it| &it.inputs);
        let texts =
            texts.flat_map(|it| [Some(&it.ids), it.mask.as_ref(), it.types.as_ref()].into_iter().flatten());
        let inputs = self.image.iter().map(|it| ("[image]", &it.input));
        let inputs = inputs.chain(texts.map(|name| ("[text]", name)));
        for (specs, names) in
            [(&signature.inputs, inputs.collect::<Vec<_>>()), (&signature.outputs, outputs.collect())]
        {
            for (section, name) in names {
                if !specs.iter().any(|spec| spec.name == *name) {
                    let known: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
                    let known = known.join(", ");
                    let detail = format!("{section} names '{name}', but the model has {known}");
                    return Err(Error::Misfit { detail });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn load_options(&self) -> LoadOptions {
        LoadOptions {
            providers: self.providers.clone(),
            require: self.require,
            threads: self.threads,
            spinning: self.spinning,
            device_memory_limit_bytes: self.device_memory_limit_bytes,
            isolation: self.isolation,
        }
    }
}

/// Triton's configuration of a model, in one of its two forms.
#[derive(Debug, Clone, Copy)]
pub enum Pbtxt<'a> {
    Text(&'a str),
    Json(&'a str),
}

/// A name from a configuration that stays in the folder it is joined to.
fn file_name(field: &str, name: &str) -> Result<String, String> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if inside && !name.is_empty() && !name.contains('\0') {
        Ok(name.to_owned())
    } else {
        Err(format!("{field} is '{}': it must be a file in the model's folder", name.escape_default()))
    }
}

fn providers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Provider>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().map(|name| parse_provider(name)).collect()
}

fn provider<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Provider>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| parse_provider(&name)).transpose()
}

fn isolation<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Isolation>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    let parse = |name: String| {
        let known = [Isolation::None, Isolation::Process].into_iter().find(|it| it.name() == name);
        known.ok_or_else(|| de::Error::custom(format!("`{name}` is no isolation: expected none or process")))
    };
    name.map(parse).transpose()
}

fn parse_provider<E: de::Error>(name: &str) -> Result<Provider, E> {
    name.parse().map_err(|error| E::custom(format!("`{name}` is {error}")))
}
