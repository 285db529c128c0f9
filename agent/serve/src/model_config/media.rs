//! What `model.toml` says of what goes before and after a model.

use std::path::PathBuf;

use serde::Deserialize;

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
