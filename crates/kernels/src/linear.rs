//! A linear map with an adapter, ready for products.

use crate::buffer::PooledBuffer;
use crate::linear_matrix::{LinearMatrix, PackedMatrix};
use crate::matrix::{Accumulate, Matrix};
use crate::product::{Packed, product};
use crate::rows;

/// `x·W + b + scale·x·A·B`; what a map does not have is empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinearWeights<'a> {
    /// `[inputs, outputs]`
    pub matrix: LinearMatrix<'a>,
    /// `[outputs]`
    pub bias: &'a [f32],
    /// `[inputs, r]`
    pub a: &'a [f32],
    /// `[r, outputs]`
    pub b: &'a [f32],
    /// The adapter's `α/r`.
    pub scale: f32,
}

impl LinearWeights<'_> {
    /// Rank of the adapter, 0 where there is none.
    pub fn rank(self, inputs: usize) -> usize {
        self.a.len() / inputs.max(1)
    }
}

/// Gradients in the shapes of [`LinearWeights`]; that of a matrix that is not needed is empty.
#[derive(Debug, Clone, Default)]
pub struct LinearGradient {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
}

impl LinearGradient {
    pub fn zeros(map: LinearWeights<'_>, [inputs, outputs]: [usize; 2], weight_too: bool) -> Self {
        let zeros = |like: &[f32]| vec![0.0; like.len()];
        Self {
            weight: vec![0.0; if weight_too { inputs * outputs } else { 0 }],
            bias: zeros(map.bias),
            a: zeros(map.a),
            b: zeros(map.b),
        }
    }

    /// Adds what `n` rows give: `d_low` is the scaled `dy·Bᵀ` `[n, r]`; `low` takes `x·A`.
    pub fn add_rows(
        &mut self,
        map: LinearWeights<'_>,
        [inputs, n, outputs]: [usize; 3],
        x: Matrix<'_>,
        dy: Matrix<'_>,
        d_low: &[f32],
        low: &mut [f32],
    ) {
        if !self.weight.is_empty() {
            product([inputs, n, outputs], &mut self.weight, outputs, Accumulate::Add, x.t(), dy, 1.0);
        }
        if !self.bias.is_empty() {
            rows::add_column_sums(&dy.values[..(n - 1) * dy.row_step + outputs], dy.row_step, &mut self.bias);
        }
        let rank = map.rank(inputs);
        if rank > 0 {
            product([inputs, n, rank], &mut self.a, rank, Accumulate::Add, x.t(), Matrix::rows(d_low, rank), 1.0);
            product([n, inputs, rank], low, rank, Accumulate::Write, x, Matrix::rows(map.a, rank), 1.0);
            product(
                [rank, n, outputs],
                &mut self.b,
                outputs,
                Accumulate::Add,
                Matrix::rows(low, rank).t(),
                dy,
                map.scale,
            );
        }
    }
}

/// A map ready for products one way: its matrix, its adapter's two, and its bias.
#[derive(Debug)]
pub struct PackedLinear<'a> {
    weight: PackedMatrix,
    sizes: [usize; 2],
    bias: &'a [f32],
    adapter: Option<(Packed, Packed)>,
    scale: f32,
}

impl<'a> PackedLinear<'a> {
    /// `x·W + b + scale·x·A·B`
    pub fn linear_forward(map: LinearWeights<'a>, sizes @ [inputs, outputs]: [usize; 2]) -> Self {
        let rank = map.rank(inputs);
        let pack = |w: &[f32], inputs, outputs| Packed::new(Matrix::rows(w, outputs), inputs, outputs);
        let adapter = (rank > 0).then(|| (pack(map.a, inputs, rank), pack(map.b, rank, outputs)));
        Self { weight: map.matrix.packed_for_many(sizes), sizes, bias: map.bias, adapter, scale: map.scale }
    }

    /// `dy·Wᵀ + scale·dy·Bᵀ·Aᵀ`
    pub fn linear_backward(map: LinearWeights<'a>, sizes @ [inputs, outputs]: [usize; 2]) -> Self {
        let rank = map.rank(inputs);
        let turn = |w: &[f32], inputs, outputs| Packed::new(Matrix::rows(w, outputs).t(), outputs, inputs);
        let adapter = (rank > 0).then(|| (turn(map.b, rank, outputs), turn(map.a, inputs, rank)));
        let weight = map.matrix.packed_back(sizes, 0..outputs);
        Self { weight, sizes: [outputs, inputs], bias: &[], adapter, scale: map.scale }
    }

    /// The map of `n` rows into `y`, whose rows stand `y_step` apart. `low` takes what stands between the adapter's two
    /// matrices, `[n, r]`, scaled.
    pub fn apply(
        &self,
        n: usize,
        x: Matrix<'_>,
        y: &mut [f32],
        y_step: usize,
        mut over: Accumulate,
        low: &mut PooledBuffer,
    ) {
        let [inputs, outputs] = self.sizes;
        if !self.bias.is_empty() {
            match over {
                Accumulate::Write => rows::fill(self.bias, y, y_step),
                Accumulate::Add => rows::add_bias_to(self.bias, y, y_step),
            }
            over = Accumulate::Add;
        }
        self.weight.product(n, x, y, y_step, over);
        if let Some((first, second)) = &self.adapter {
            let rank = first.outputs;
            first.gemm_range((n, 0..inputs, rank), x, low, rank, Accumulate::Write, self.scale);
            second.gemm_range((n, 0..rank, outputs), Matrix::rows(low, rank), y, y_step, Accumulate::Add, 1.0);
        }
    }
}
