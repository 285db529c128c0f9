//! The best classes of a classifier's output.

use serde::Serialize;
use serve::ClassifyConfig;

use crate::labels::Labels;
use crate::{Error, Outputs};

/// A class and how sure the model is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Label {
    pub index: usize,
    pub label: String,
    pub score: f32,
}

/// Of the first row, best first; equal scores in the order of the classes.
pub(crate) fn classify(
    outputs: &(impl Outputs + ?Sized),
    config: &ClassifyConfig,
    labels: &Labels,
) -> Result<Vec<Label>, Error> {
    let output = outputs.floats(&config.output)?;
    let classes = output.shape.last().copied().unwrap_or(0).min(output.values.len());
    let row = output.values.get(..classes).unwrap_or_default();
    let ranked = top(row, config.softmax, config.top).into_iter();
    Ok(ranked.map(|(index, score)| Label { index, label: labels.name(index), score }).collect())
}

fn top(scores: &[f32], softmaxed: bool, count: usize) -> Vec<(usize, f32)> {
    let scores = if softmaxed { softmax(scores) } else { scores.to_vec() };
    let mut ranked: Vec<(usize, f32)> = scores.into_iter().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(count);
    ranked
}

/// exp(x) / sum of exp, shifted by the maximum so that nothing overflows.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - highest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_first() {
        let check = |scores: &[f32], softmaxed: bool, count: usize, expected: &[(usize, f32)]| {
            let got = top(scores, softmaxed, count);
            assert_eq!(got.len(), expected.len(), "{scores:?}");
            for (got, expected) in got.iter().zip(expected) {
                assert_eq!(got.0, expected.0, "{scores:?}");
                assert!((got.1 - expected.1).abs() < 1e-6, "{scores:?}: {got:?} instead of {expected:?}");
            }
        };
        check(&[0.1, 0.7, 0.2], false, 2, &[(1, 0.7), (2, 0.2)]);
        check(&[0.0, 3.0_f32.ln()], true, 5, &[(1, 0.75), (0, 0.25)]);
        check(&[1000.0, 1000.0], true, 2, &[(0, 0.5), (1, 0.5)]);
        check(&[], true, 3, &[]);
    }
}
