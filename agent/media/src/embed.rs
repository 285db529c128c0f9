//! Token vectors into one vector a sentence.

use serve::{EmbedConfig, Pool};

use crate::{Error, Outputs};

/// A vector shorter than this has no direction (sentence-transformers has the same bound).
const SHORTEST: f32 = 1e-12;

/// One vector a row. `tokens` says how many of a row's tokens are its own; the rest is padding.
pub(crate) fn embed(
    outputs: &(impl Outputs + ?Sized),
    config: &EmbedConfig,
    tokens: &[usize],
) -> Result<Vec<Vec<f32>>, Error> {
    let output = outputs.floats(&config.output)?;
    let refuse = |expected: &str| {
        let (rows, shape) = (tokens.len(), &output.shape);
        Err(Error::output(
            &config.output,
            format!("has shape {shape:?}, expected {expected} for {rows} rows"),
        ))
    };
    let (columns, size) = match (config.pool, &*output.shape) {
        (Pool::None, [rows, size]) if *rows == tokens.len() => (1, *size),
        (Pool::None, _) => return refuse("[rows, size]"),
        (_, [rows, columns, size])
            if *rows == tokens.len() && tokens.iter().all(|tokens| (1..=*columns).contains(tokens)) =>
        {
            (*columns, *size)
        }
        (Pool::Mean | Pool::Cls, _) => return refuse("[rows, tokens, size]"),
    };
    if size == 0 {
        return refuse("a size");
    }
    let rows = output.values.chunks_exact(columns * size).zip(tokens);
    Ok(rows
        .map(|(row, tokens)| {
            let count = if config.pool == Pool::Mean { *tokens } else { 1 };
            let mut vector = mean(row, size, count);
            if config.normalise {
                normalise(&mut vector);
            }
            vector
        })
        .collect())
}

/// Of the first `count` vectors of `size`.
fn mean(row: &[f32], size: usize, count: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f32; size];
    for token in row.chunks_exact(size).take(count) {
        for (sum, value) in sum.iter_mut().zip(token) {
            *sum += value;
        }
    }
    let count = count as f32;
    sum.iter_mut().for_each(|sum| *sum /= count);
    sum
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(SHORTEST);
    vector.iter_mut().for_each(|value| *value /= length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Floats;

    struct Answer(Floats);

    impl Outputs for Answer {
        fn floats(&self, _: &str) -> Result<Floats, Error> {
            Ok(self.0.clone())
        }
    }

    fn run(
        pool: Pool,
        normalise: bool,
        shape: &[usize],
        values: &[f32],
        tokens: &[usize],
    ) -> Result<Vec<Vec<f32>>, Error> {
        let config = EmbedConfig { output: "y".to_owned(), pool, normalise };
        embed(&Answer(Floats { shape: shape.to_vec(), values: values.to_vec() }), &config, tokens)
    }

    #[test]
    fn padding_does_not_count() {
        let check = |pool, normalise, shape: &[usize], tokens: &[usize], expected: &[&[f32]]| {
            let values = [1.0, 0.0, 5.0, 6.0, 100.0, 100.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0];
            assert_eq!(run(pool, normalise, shape, &values, tokens).unwrap(), expected, "{pool:?}");
        };
        check(Pool::Mean, false, &[2, 3, 2], &[2, 1], &[&[3.0, 3.0], &[3.0, 4.0]]);
        check(Pool::Mean, true, &[2, 3, 2], &[1, 1], &[&[1.0, 0.0], &[0.6, 0.8]]);
        check(Pool::Cls, false, &[2, 3, 2], &[3, 3], &[&[1.0, 0.0], &[3.0, 4.0]]);
        check(
            Pool::None,
            false,
            &[2, 6],
            &[3, 1],
            &[&[1.0, 0.0, 5.0, 6.0, 100.0, 100.0], &[3.0, 4.0, 9.0, 9.0, 9.0, 9.0]],
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let check = |pool, shape: &[usize], tokens: &[usize]| {
            let values = vec![0.0; shape.iter().product()];
            assert!(run(pool, true, shape, &values, tokens).is_err(), "{pool:?} {shape:?} {tokens:?}");
        };
        check(Pool::Mean, &[2, 3], &[1, 1]);
        check(Pool::Mean, &[1, 3, 2], &[1, 1]);
        check(Pool::Mean, &[1, 3, 2], &[4]);
        check(Pool::Mean, &[1, 3, 2], &[0]);
        check(Pool::Mean, &[1, 3, 0], &[1]);
        check(Pool::None, &[1, 3, 2], &[1]);
    }

    #[test]
    fn a_vector_without_a_direction_stays_zero() {
        assert_eq!(run(Pool::None, true, &[1, 2], &[0.0, 0.0], &[1]).unwrap(), [[0.0, 0.0]]);
    }
}
