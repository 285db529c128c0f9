//! Detected objects from the outputs of a NanoDet head.
//!
//! For each stride one tensor of scores `[1, cells, classes]` in 0..1 and one of boxes
//! `[1, cells, 4 * (reg_max + 1)]`; the cells lie row by row. A side of a box is a distribution over `reg_max + 1`
//! bins: the softmax of its logits gives the expected bin, and that times the stride is the side's distance from
//! the centre of the cell, `(x + 0.5) * stride` (Generalized Focal Loss, Li et al. 2020, section 3.2).

use serve::DetectConfig;

/// An object in pixels of the model's image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(crate) class: usize,
    pub(crate) score: f32,
    /// x0, y0, x1, y1.
    pub(crate) corners: [f32; 4],
}

/// The values of one stride's two outputs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Level<'a> {
    pub(crate) stride: u32,
    pub(crate) scores: &'a [f32],
    pub(crate) boxes: &'a [f32],
}

/// Decodes all levels, keeps the best class of each cell that reaches the threshold, and drops what overlaps a
/// better one of its class. Best first.
pub(crate) fn nanodet(
    levels: &[Level<'_>],
    size: [u32; 2],
    classes: usize,
    config: &DetectConfig,
) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for level in levels {
        decode(level, size, classes, config, &mut found)?;
    }
    Ok(suppress(found, config.iou_threshold))
}

fn decode(
    level: &Level<'_>,
    size: [u32; 2],
    classes: usize,
    config: &DetectConfig,
    found: &mut Vec<Found>,
) -> Result<(), String> {
    let as_usize = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
    let stride = level.stride.max(1);
    let [columns, rows] = size.map(|side| as_usize(side.div_ceil(stride)));
    let cells = columns * rows;
    let bins = as_usize(config.reg_max) + 1;
    if level.scores.len() != cells * classes || level.boxes.len() != cells * 4 * bins || classes == 0 {
        return Err(format!(
            "stride {stride}: {} scores and {} box values do not fit {cells} cells of {classes} classes and 4 x {bins} bins",
            level.scores.len(),
            level.boxes.len()
        ));
    }
    let stride = stride as f32;
    let cells = level.scores.chunks_exact(classes).zip(level.boxes.chunks_exact(4 * bins));
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

/// Expectation of the bin's number under the softmax of the logits.
fn expected_bin(logits: &[f32]) -> f32 {
    let weights = super::classify::softmax(logits);
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

    #[test]
    fn boxes_lie_around_the_centre_of_their_cell() {
        // 16 x 16 pixels at stride 8: 2 x 2 cells, 3 bins, 2 classes. Only cell (1, 0) is sure of class 1.
        let mut scores = vec![0.1; 8];
        scores[3] = 0.9;
        let mut boxes: Vec<f32> = (0..4).flat_map(|_| sides(3, [0, 0, 0, 0])).collect();
        boxes[12..24].copy_from_slice(&sides(3, [1, 0, 0, 1]));
        let levels = [Level { stride: 8, scores: &scores, boxes: &boxes }];
        let found = nanodet(&levels, [16, 16], 2, &config(2, 0.5)).unwrap();
        // Centre (12, 4): 8 to the left, 0 up, 0 to the right, 8 down.
        assert_eq!(found, vec![Found { class: 1, score: 0.9, corners: [4.0, 4.0, 12.0, 12.0] }]);
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
        let run = |scores: &[f32], boxes: &[f32]| {
            nanodet(&[Level { stride: 8, scores, boxes }], [16, 16], 2, &config(2, 0.5))
        };
        assert!(run(&[0.0; 7], &boxes).is_err());
        assert!(run(&[0.0; 8], &boxes[1..]).is_err());
        assert_eq!(run(&[f32::NAN; 8], &boxes), Ok(vec![]));
    }
}
