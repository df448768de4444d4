//! What a training remembers from one batch to the next.

use crate::filter::UsualMargin;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The mean of one number per batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchMean {
    sum: f64,
    batches: u64,
}

impl BatchMean {
    /// The mean with one batch more, `[1]`.
    pub fn with(&self, value: Tensor<1>) -> Tensor<1> {
        (value + self.sum) / (self.batches + 1) as f64
    }

    /// Adds a batch.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.batches += 1;
    }
}

/// The state of a training between two batches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DpoState {
    /// Of the batches' mean rewards: BCO's δ.
    pub(crate) rewards: BatchMean,
    /// β-DPO's.
    pub(crate) margin: UsualMargin,
    /// Weights of the reference, once it was updated.
    pub(crate) reference: Option<Vec<f32>>,
}
