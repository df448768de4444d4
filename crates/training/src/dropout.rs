//! Dropout of adapters' inputs. Srivastava et al. 2014; on LoRA as PEFT's `lora_dropout`.
//!
//! Deviation: PEFT draws a new mask for each token of each pass. Here an input feature is dropped for a whole iteration (Gal &
//! Ghahramani 2016 do so for a sequence): a rollout, its old log-probs and the updates on it then use the same policy, so that
//! ratios start at 1 and parts of a batch add up. A dropped feature is a row of A set to zero, so the module needs no dropout
//! of its own.

use duel_model::weights::NamedTensor;
use duel_spec::seeds::{self, Stream};
use rand::RngExt;
use std::ops::Range;

/// A dropout mask over the flat weights.
#[derive(Debug, Clone)]
pub struct Dropout {
    share: f64,
    seed: u64,
    /// The range of each adapter input's row of A in the flat weights.
    rows: Vec<Range<usize>>,
    /// One per row: 0, or 1/(1 − share).
    factors: Vec<f32>,
}

impl Dropout {
    /// Drops this `share` of the inputs of every adapter among the trained weights.
    pub fn new(share: f64, seed: u64, trained: &[NamedTensor]) -> Self {
        let (mut rows, mut start) = (vec![], 0);
        for parameter in trained {
            if parameter.name.ends_with("lora.a") {
                let rank = parameter.shape[1];
                rows.extend((0..parameter.shape[0]).map(|row| start + row * rank..start + (row + 1) * rank));
            }
            start += parameter.values.len();
        }
        let factors = vec![1.0; rows.len()];
        Self { share, seed, rows, factors }
    }

    /// Draws the mask of an iteration.
    pub fn draw(&mut self, iteration: u64) {
        let mut rng = seeds::stream(self.seed, Stream::Dropout, iteration);
        let scale = (1.0 / (1.0 - self.share)) as f32;
        self.factors.fill_with(|| if rng.random_bool(self.share) { 0.0 } else { scale });
    }

    /// Nothing is dropped.
    pub fn disable(&mut self) {
        self.factors.fill(1.0);
    }

    /// Multiplies weights or gradients by their factors.
    pub fn apply(&self, flat: &mut [f32]) {
        for (row, &factor) in self.rows.iter().zip(&self.factors) {
            flat[row.clone()].iter_mut().for_each(|x| *x *= factor);
        }
    }

    /// The same on a copy.
    pub fn applied(&self, flat: &[f32]) -> Vec<f32> {
        let mut copy = flat.to_vec();
        self.apply(&mut copy);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_of_a_are_dropped_and_the_mean_stays() {
        let named = |name: &str, shape: &[usize]| NamedTensor {
            name: name.into(),
            shape: shape.into(),
            values: vec![1.0; shape.iter().product()],
        };
        let mut dropout = Dropout::new(0.25, 3, &[named("w.lora.b", &[2, 3]), named("w.lora.a", &[400, 2])]);
        let (n, mut sum) = (100, 0.0);
        for iteration in 0..n {
            dropout.draw(iteration);
            let masked = dropout.applied(&[1.0; 806]);
            assert!(masked[..6].iter().all(|&x| x == 1.0));
            assert!(masked[6..].chunks_exact(2).all(|row| row[0] == row[1] && (row[0] == 0.0 || row[0] == 4.0 / 3.0)));
            sum += masked[6..].iter().map(|&x| f64::from(x)).sum::<f64>() / 800.0;
        }
        // 40,000 draws of sd .58 have a mean of sd .003
        assert!((sum / n as f64 - 1.0).abs() < 0.015, "{}", sum / n as f64);
        dropout.disable();
        assert_eq!(dropout.applied(&[2.0; 806]), vec![2.0; 806]);
    }
}
