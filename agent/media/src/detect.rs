//! Detected objects from the outputs of a NanoDet head.
//!
//! For each stride one tensor of scores `[1, cells, classes]` in 0..1 and one of boxes
//! `[1, cells, 4 * (reg_max + 1)]`; the cells lie row by row. A side of a box is a distribution over `reg_max + 1`
//! bins: the softmax of its logits gives the expected bin, and that times the stride is the side's distance from
//! the centre of the cell, `(x + 0.5) * stride` (Generalized Focal Loss, Li et al. 2020, section 3.2).

use serde::Serialize;
use serve::{DetectConfig, DetectKind};

use crate::classify::softmax;
use crate::labels::Labels;
use crate::{Error, Floats, Outputs, Place};

/// An object in the photo.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detection {
    pub index: usize,
    pub label: String,
    pub score: f32,
    /// x0, y0, x1, y1 in pixels of the photo, after EXIF orientation.
    #[serde(rename = "box")]
    pub corners: [f32; 4],
}

pub(crate) fn check(config: &DetectConfig) -> Result<(), Error> {
    let heads = config.strides.len();
    if heads == 0 || config.scores.len() != heads || config.boxes.len() != heads {
        let detail = "needs as many scores and boxes as strides, and one at least".to_owned();
        return Err(Error::Config { block: "detect", detail });
    }
    if config.strides.contains(&0) {
        return Err(Error::Config { block: "detect", detail: "a stride is 0".to_owned() });
    }
    Ok(())
}

/// The objects, best first. `size` is that of the model's image, `place` says where it lies in the photo.
pub(crate) fn detect(
    outputs: &(impl Outputs + ?Sized),
    config: &DetectConfig,
    labels: &Labels,
    size: [u32; 2],
    place: Place,
) -> Result<Vec<Detection>, Error> {
    let mut levels = Vec::with_capacity(config.strides.len());
    for ((stride, scores), boxes) in config.strides.iter().zip(&config.scores).zip(&config.boxes) {
        levels.push((scores, *stride, outputs.floats(scores)?, outputs.floats(boxes)?));
    }
    let mut found = Vec::new();
    for (name, stride, scores, boxes) in &levels {
        let level = Level { stride: *stride, scores, boxes };
        match config.kind {
            DetectKind::Nanodet => level.decode(size, config, &mut found),
        }
        .map_err(|detail| Error::output(name, detail))?;
    }
    let object = |one: Found| Detection {
        index: one.class,
        label: labels.name(one.class),
        score: one.score,
        corners: place.to_photo(one.corners),
    };
    Ok(suppress(found, config.iou_threshold).into_iter().map(object).collect())
}

/// An object in pixels of the model's image.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    class: usize,
    score: f32,
    /// x0, y0, x1, y1.
    corners: [f32; 4],
}

/// The two outputs of one stride.
#[derive(Debug, Clone, Copy)]
struct Level<'a> {
    stride: u32,
    scores: &'a Floats,
    boxes: &'a Floats,
}

impl Level<'_> {
    /// The best class of each cell that reaches the threshold.
    fn decode(self, size: [u32; 2], config: &DetectConfig, found: &mut Vec<Found>) -> Result<(), String> {
        let as_usize = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let Self { stride, scores, boxes } = self;
        let classes = scores.shape.last().copied().unwrap_or(0);
        let [columns, rows] = size.map(|side| as_usize(side.div_ceil(stride)));
        let cells = columns * rows;
        let bins = as_usize(config.reg_max) + 1;
        let fits = cells.checked_mul(classes) == Some(scores.values.len())
            && (4 * bins).checked_mul(cells) == Some(boxes.values.len());
        if !fits || classes == 0 {
            return Err(format!(
                "stride {stride}: {} scores and {} box values do not fit {cells} cells of {classes} classes and 4 x {bins} bins",
                scores.values.len(),
                boxes.values.len()
            ));
        }
        let stride = stride as f32;
        let cells = scores.values.chunks_exact(classes).zip(boxes.values.chunks_exact(4 * bins));
        for (cell, (scores, logits)) in cells.enumerate() {
            let best = scores.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            // A score that is no number reaches no threshold.
            let Some((class, score)) = best.filter(|(_, score)| *score >= config.score_threshold) else {
                continue;
            };
            let centre = [cell % columns, cell / columns].map(|at| (at as f32 + 0.5) * stride);
            let side = |index: usize| stride * expected_bin(&logits[index * bins..(index + 1) * bins]);
            let inside = |value: f32, axis: usize| value.clamp(0.0, size[axis] as f32);
            found.push(Found {
                class,
                score,
                corners: [
                    inside(centre[0] - side(0), 0),
                    inside(centre[1] - side(1), 1),
                    inside(centre[0] + side(2), 0),
                    inside(centre[1] + side(3), 1),
                ],
            });
        }
        Ok(())
    }
}

/// Expectation of the bin's number under the softmax of the logits.
fn expected_bin(logits: &[f32]) -> f32 {
    let weights = softmax(logits);
    weights.iter().enumerate().map(|(bin, weight)| bin as f32 * weight).sum()
}

/// Greedy non-maximum suppression within each class.
fn suppress(mut found: Vec<Found>, iou_threshold: f32) -> Vec<Found> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Found> = Vec::new();
    for candidate in found {
        let hidden = kept.iter().any(|better| {
            better.class == candidate.class && iou(better.corners, candidate.corners) > iou_threshold
        });
        if !hidden {
            kept.push(candidate);
        }
    }
    kept
}

/// Intersection over union; 0 for boxes without area.
fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |corners: [f32; 4]| (corners[2] - corners[0]).max(0.0) * (corners[3] - corners[1]).max(0.0);
    let common = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - common;
    if union > 0.0 { common / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(reg_max: u32, score_threshold: f32) -> DetectConfig {
        let text = format!(
            "kind = \"nanodet\"\nlabels = \"labels.txt\"\nstrides = [8]\nreg_max = {reg_max}\n\
             score_threshold = {score_threshold}\niou_threshold = 0.5\nscores = [\"s\"]\nboxes = [\"b\"]"
        );
        toml::from_str(&text).unwrap()
    }

    /// Logits whose softmax is all in the given bin of each side: left, top, right, bottom.
    fn sides(bins: usize, at: [usize; 4]) -> Vec<f32> {
        at.iter().flat_map(|&hot| (0..bins).map(move |bin| if bin == hot { 100.0 } else { 0.0 })).collect()
    }

    #[test]
    fn a_distribution_is_its_expected_bin() {
        let check = |logits: &[f32], expected: f32| {
            let got = expected_bin(logits);
            assert!((got - expected).abs() < 1e-5, "{logits:?}: {got} instead of {expected}");
        };
        check(&[0.0, 0.0, 0.0], 1.0);
        check(&[100.0, 0.0, 0.0], 0.0);
        check(&[0.0, 0.0, 100.0], 2.0);
        check(&[3.0_f32.ln(), 0.0], 0.25); // 3/4 in bin 0, 1/4 in bin 1
        check(&[1000.0, 1000.0], 0.5); // no overflow
    }

    fn decode(scores: &[f32], boxes: &[f32]) -> Result<Vec<Found>, String> {
        // 16 x 16 pixels at stride 8: 2 x 2 cells, 3 bins, 2 classes.
        let floats =
            |values: &[f32], last: usize| Floats { shape: vec![1, 4, last], values: values.to_vec() };
        let (scores, boxes) = (floats(scores, 2), floats(boxes, 12));
        let mut found = Vec::new();
        Level { stride: 8, scores: &scores, boxes: &boxes }.decode([16, 16], &config(2, 0.5), &mut found)?;
        Ok(found)
    }

    #[test]
    fn boxes_lie_around_the_centre_of_their_cell() {
        // Only cell (1, 0) is sure of class 1.
        let mut scores = vec![0.1; 8];
        scores[3] = 0.9;
        let mut boxes: Vec<f32> = (0..4).flat_map(|_| sides(3, [0, 0, 0, 0])).collect();
        boxes[12..24].copy_from_slice(&sides(3, [1, 0, 0, 1]));
        // Centre (12, 4): 8 to the left, 0 up, 0 to the right, 8 down.
        let expected = Found { class: 1, score: 0.9, corners: [4.0, 4.0, 12.0, 12.0] };
        assert_eq!(decode(&scores, &boxes), Ok(vec![expected]));
    }

    #[test]
    fn overlap_hides_only_the_same_class() {
        let check = |name: &str, found: &[(usize, f32, [f32; 4])], kept: &[usize]| {
            let found = found.iter().map(|&(class, score, corners)| Found { class, score, corners });
            let found: Vec<Found> = found.collect();
            let expected: Vec<Found> = kept.iter().map(|&index| found[index].clone()).collect();
            assert_eq!(suppress(found, 0.5), expected, "{name}");
        };
        let (here, near, far) = ([0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 20.0, 30.0, 30.0]);
        check("same class", &[(0, 0.6, near), (0, 0.9, here)], &[1]);
        check("other class", &[(0, 0.9, here), (1, 0.6, near)], &[0, 1]);
        check("apart", &[(0, 0.9, here), (0, 0.6, far)], &[0, 1]);
        check("half", &[(0, 0.9, here), (0, 0.8, [0.0, 0.0, 10.0, 4.0])], &[0, 1]);
    }

    #[test]
    fn wrong_sizes_and_numbers_that_are_none() {
        let boxes: Vec<f32> = (0..4).flat_map(|_| sides(3, [1, 1, 1, 1])).collect();
        assert!(decode(&[0.0; 7], &boxes).is_err());
        assert!(decode(&[0.0; 8], &boxes[1..]).is_err());
        assert_eq!(decode(&[f32::NAN; 8], &boxes), Ok(vec![]));
    }

    #[test]
    fn as_many_outputs_as_strides() {
        let with = |change: fn(&mut DetectConfig)| {
            let mut config = config(2, 0.5);
            change(&mut config);
            check(&config)
        };
        assert!(with(|_| {}).is_ok());
        assert!(with(|config| config.strides = vec![8, 16]).is_err());
        assert!(with(|config| config.strides = vec![0]).is_err());
        assert!(with(|config| config.boxes.clear()).is_err());
    }
}
