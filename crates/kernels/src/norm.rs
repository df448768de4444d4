//! A norm by its parameters.

use crate::buffer::PooledBuffer;
use crate::rows;
use rayon::prelude::*;

/// Rows that a thread norms at a time.
const ROWS: usize = 128;

/// A norm's gain and bias, as wide as the rows that it norms: a layer norm; an RMS norm where the bias is empty; none where
/// both are.
#[derive(Debug, Clone, Copy, Default)]
pub struct NormWeights<'a> {
    pub gain: &'a [f32],
    pub bias: &'a [f32],
}

/// Gradients in the shapes of [`NormWeights`].
#[derive(Debug, Clone, Default)]
pub struct NormGradient {
    pub gain: Vec<f32>,
    pub bias: Vec<f32>,
}

impl NormWeights<'_> {
    pub fn is_none(self) -> bool {
        self.gain.is_empty()
    }

    /// Numbers of its statistics, of so many numbers that are normed.
    pub fn statistics(self, numbers: usize) -> usize {
        match (self.gain.len(), self.bias.len()) {
            (0, _) => 0,
            (d, 0) => numbers / d,
            (d, _) => 2 * (numbers / d),
        }
    }

    /// Norms rows; `statistics` takes what the other two functions need.
    pub fn forward(self, x: &[f32], epsilon: f32, y: &mut [f32], statistics: &mut [f32]) {
        match self.bias.is_empty() {
            true => rows::rms_norm(x, self.gain, epsilon, y, statistics),
            false => rows::layer_norm(x, self.gain, self.bias, epsilon, y, statistics),
        }
    }

    /// What [`Self::forward`] gave.
    pub fn again(self, x: &[f32], statistics: &[f32], y: &mut [f32]) {
        match self.bias.is_empty() {
            true => rows::rms_normed(x, statistics, self.gain, y),
            false => rows::layer_normed(x, statistics, self.gain, self.bias, y),
        }
    }

    /// Adds to `dx` and to `gradient`.
    pub fn backward(self, dy: &[f32], x: &[f32], statistics: &[f32], dx: &mut [f32], gradient: &mut NormGradient) {
        let NormGradient { gain, bias } = gradient;
        match self.bias.is_empty() {
            true => rows::rms_norm_backward(dy, x, statistics, self.gain, dx, gain),
            false => rows::layer_norm_backward(dy, x, statistics, self.gain, dx, gain, bias),
        }
    }

    /// Rows normed, and their statistics.
    pub fn forward_rows(self, x: &[f32], epsilon: f32) -> (Vec<f32>, PooledBuffer) {
        let (d, of_row) = (self.gain.len(), self.statistics(self.gain.len()));
        let (mut y, mut statistics) = (vec![0f32; x.len()], self.buffer(x.len()));
        let rows = x.par_chunks(ROWS * d).zip(y.par_chunks_mut(ROWS * d)).zip(statistics.par_chunks_mut(ROWS * of_row));
        rows.for_each(|((x, y), statistics)| self.forward(x, epsilon, y, statistics));
        (y, statistics)
    }

    /// Gradients of rows, and of gain and bias.
    pub fn backward_rows(self, dy: &[f32], x: &[f32], statistics: &[f32]) -> (Vec<f32>, NormGradient) {
        let (d, of_row) = (self.gain.len(), self.statistics(self.gain.len()));
        let mut dx = vec![0f32; x.len()];
        let inputs = dy.par_chunks(ROWS * d).zip(x.par_chunks(ROWS * d)).zip(statistics.par_chunks(ROWS * of_row));
        let parts = inputs.zip(dx.par_chunks_mut(ROWS * d)).map(|(((dy, x), statistics), dx)| {
            let mut gradient = self.zeros();
            self.backward(dy, x, statistics, dx, &mut gradient);
            gradient
        });
        let parts: Vec<NormGradient> = parts.collect();
        let mut sum = self.zeros();
        for part in &parts {
            rows::add(&part.gain, &mut sum.gain);
            rows::add(&part.bias, &mut sum.bias);
        }
        (dx, sum)
    }

    /// Zeros in its shape.
    pub fn zeros(self) -> NormGradient {
        NormGradient { gain: vec![0.0; self.gain.len()], bias: vec![0.0; self.bias.len()] }
    }

    /// A buffer for the statistics of so many numbers.
    pub fn buffer(self, numbers: usize) -> PooledBuffer {
        PooledBuffer::new(self.statistics(numbers))
    }
}
