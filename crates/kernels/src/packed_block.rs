//! A block as a decoder holds it: every weight packed, maps of the same inputs side by side, adapters merged.

use crate::attention::HeadOrder;
use crate::block::{BlockOptions, BlockShape, BlockWeights, N_NORM, OUT, RopeTables};
use crate::buffer::PooledBuffer;
use crate::linear::LinearWeights;
use crate::matrix::{Accumulate, Matrix};
use crate::norm::NormWeights;
use crate::product::{Packed, product};
use crate::rows;
use rayon::prelude::*;
use std::sync::Arc;

/// The parameters of [`NormWeights`].
#[derive(Debug, Clone)]
pub struct DecoderNorm {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

impl DecoderNorm {
    pub fn new(norm: NormWeights<'_>) -> Self {
        Self { gain: norm.gain.to_vec(), bias: norm.bias.to_vec() }
    }

    pub fn weights(&self) -> NormWeights<'_> {
        NormWeights { gain: &self.gain, bias: &self.bias }
    }

    /// The rows normed, or as they are where there is no norm.
    pub fn apply(&self, x: &[f32], epsilon: f32, y: &mut [f32], statistics: &mut [f32]) {
        let norm = self.weights();
        match norm.is_none() {
            true => y.copy_from_slice(x),
            false => norm.forward(x, epsilon, y, &mut statistics[..norm.statistics(x.len())]),
        }
    }
}

/// `x·W`, and `+ b` where there is a bias.
#[derive(Debug, Clone)]
pub struct DecoderLinear {
    pub weight: Packed,
    pub bias: Option<Vec<f32>>,
}

impl DecoderLinear {
    /// `y = x·W + b`
    pub fn write(&self, x: &[f32], y: &mut [f32], split: bool) {
        match &self.bias {
            Some(bias) => {
                rows::fill(bias, y, bias.len());
                self.weight.gemm_parallel(x, y, Accumulate::Add, split);
            }
            None => self.weight.gemm_parallel(x, y, Accumulate::Write, split),
        }
    }

    /// `y = y + x·W + b`
    pub fn add(&self, x: &[f32], y: &mut [f32], split: bool) {
        if let Some(bias) = &self.bias {
            rows::add_bias_to(bias, y, bias.len());
        }
        self.weight.gemm_parallel(x, y, Accumulate::Add, split);
    }
}

/// A block's parameters, ready to decode with.
#[derive(Debug, Clone)]
pub struct PackedBlock {
    pub options: BlockOptions,
    pub norms: [DecoderNorm; N_NORM],
    /// Queries, keys and values side by side, `[D, (H + 2G)·E]`.
    pub qkv: DecoderLinear,
    pub out: DecoderLinear,
    /// `[D, F]`; of a gated MLP the gate and what it opens side by side, `[D, 2F]`.
    pub up: DecoderLinear,
    pub down: DecoderLinear,
    pub rope: Option<Arc<RopeTables>>,
}

impl PackedBlock {
    pub fn new(shape: BlockShape, weights: &BlockWeights<'_>, rope: Option<Arc<RopeTables>>) -> Self {
        let maps_of = |maps: Vec<(usize, usize)>| maps.into_iter().map(|(map, _)| map).collect();
        let [qkv, up] = shape.inputs().map(maps_of);
        let maps: [Vec<usize>; 4] = [qkv, up, vec![OUT[0]], vec![OUT[1]]];
        let mut linears: [Option<DecoderLinear>; 4] = Default::default();
        maps.par_iter()
            .zip(linears.par_iter_mut())
            .for_each(|(maps, linear)| *linear = Some(side_by_side(shape, weights, maps)));
        let [qkv, up, out, down] = linears.map(|linear| linear.expect("just packed"));
        Self { options: shape.options, norms: weights.norms.map(DecoderNorm::new), qkv, out, up, down, rope }
    }

    /// The block's numbers before the activation.
    pub fn wide(&self) -> usize {
        self.up.weight.outputs
    }

    /// `x = x + m·norm(map(inner))`, for attention (0) or the MLP (1). What follows `x` is working memory.
    pub fn add_normed(
        &self,
        part: usize,
        inner: &[f32],
        x: &mut [f32],
        [added, normed, statistics]: [&mut Vec<f32>; 3],
        epsilon: f32,
        split: bool,
    ) {
        let (map, norm) = ([&self.out, &self.down][part], self.norms[2 + part].weights());
        let multiplier = self.options.residual_multiplier;
        if multiplier == 1.0 && norm.is_none() {
            map.add(inner, x, split);
            return;
        }
        added.resize(x.len(), 0.0);
        map.write(inner, added, split);
        if norm.is_none() {
            rows::add_scaled(added, multiplier, x);
            return;
        }
        normed.resize(x.len(), 0.0);
        norm.forward(added, epsilon, normed, &mut statistics[..norm.statistics(x.len())]);
        rows::add_scaled(normed, multiplier, x);
    }
}

/// Maps of the same inputs as one, heads ordered by kind.
fn side_by_side(shape: BlockShape, w: &BlockWeights<'_>, maps: &[usize]) -> DecoderLinear {
    let sizes = shape.linears();
    let inputs = maps.first().map_or(0, |&map| sizes[map][0]);
    let outputs: usize = maps.iter().map(|&map| sizes[map][1]).sum();
    let mut biases = vec![];
    if maps.iter().any(|&map| !w.maps[map].bias.is_empty()) {
        for &map in maps {
            match w.maps[map].bias {
                [] => biases.resize(biases.len() + sizes[map][1], 0.0),
                bias => biases.extend_from_slice(bias),
            }
        }
    }
    let mut joint = PooledBuffer::new(inputs * outputs); // [inputs, outputs]
    let mut first = 0;
    for &map in maps {
        write_merged(&w.maps[map], sizes[map], &mut joint[first..], outputs);
        first += sizes[map][1];
    }
    if maps == [0] && shape.options.order == HeadOrder::ByHead {
        let ordered = by_kind(&joint, shape);
        joint.copy_from_slice(&ordered);
        biases = by_kind(&biases, shape);
    }
    let bias = (!biases.is_empty()).then_some(biases);
    DecoderLinear { weight: Packed::new(Matrix::rows(&joint, outputs), inputs, outputs), bias }
}

/// Rows `[H, 3, E]` as `[3, H, E]`.
fn by_kind(rows: &[f32], shape: BlockShape) -> Vec<f32> {
    let (heads, e) = (shape.heads, shape.head_width);
    let kind = |row: &[f32], kind: usize| -> Vec<f32> {
        (0..heads).flat_map(|head| row[(3 * head + kind) * e..][..e].to_vec()).collect()
    };
    rows.chunks_exact(3 * heads * e).flat_map(|row| (0..3).flat_map(|which| kind(row, which))).collect()
}

/// Writes a map's matrix `[inputs, outputs]` with its adapter merged, rows `step` apart.
fn write_merged(map: &LinearWeights<'_>, [inputs, outputs]: [usize; 2], to: &mut [f32], step: usize) {
    for (input, row) in to.chunks_mut(step).take(inputs).enumerate() {
        match map.turned {
            true => row.iter_mut().zip(map.weight[input..].iter().step_by(inputs)).for_each(|(to, from)| *to = *from),
            false => row[..outputs].copy_from_slice(&map.weight[input * outputs..][..outputs]),
        }
    }
    if !map.a.is_empty() {
        let rank = map.rank(inputs);
        let (a, b) = (Matrix::rows(map.a, rank), Matrix::rows(map.b, outputs));
        product([inputs, rank, outputs], to, step, Accumulate::Add, a, b, map.scale);
    }
}
