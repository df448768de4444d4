//! A block as a decoder holds it: every weight packed, maps of the same inputs side by side, adapters merged.

use crate::attention::HeadOrder;
use crate::block::{BlockOptions, BlockShape, BlockWeights, N_NORM, OUT, RopeTables};
use crate::buffer::PooledBuffer;
use crate::frozen::{Bf16Rows, FrozenMatrix};
use crate::linear::LinearWeights;
use crate::linear_matrix::{LinearMatrix, PackedMatrix};
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

/// Maps of the same inputs side by side, `x·W + b`.
#[derive(Debug, Clone)]
pub struct DecoderLinear {
    maps: Vec<DecoderMap>,
    pub bias: Option<Vec<f32>>,
    pub outputs: usize,
}

/// Some columns of a [`DecoderLinear`].
#[derive(Debug, Clone)]
struct DecoderMap {
    matrix: PackedMatrix,
    /// The first of its columns.
    first: usize,
    /// The adapter's two matrices and its scale, where they are not merged.
    adapter: Option<([Packed; 2], f32)>,
}

impl DecoderLinear {
    /// One matrix.
    fn new(matrix: PackedMatrix, outputs: usize, bias: Option<Vec<f32>>) -> Self {
        Self { maps: vec![DecoderMap { matrix, first: 0, adapter: None }], bias, outputs }
    }

    /// Numbers of its matrices.
    pub fn numbers(&self) -> usize {
        self.maps.iter().map(|map| map.matrix.numbers()).sum()
    }

    /// `y = x·W + b` of `n` rows
    pub fn write(&self, n: usize, x: &[f32], y: &mut [f32], split: bool) {
        match &self.bias {
            Some(bias) => {
                rows::fill(bias, y, bias.len());
                self.product(n, x, y, Accumulate::Add, split);
            }
            None => self.product(n, x, y, Accumulate::Write, split),
        }
    }

    /// `y = y + x·W + b` of `n` rows
    pub fn add(&self, n: usize, x: &[f32], y: &mut [f32], split: bool) {
        if let Some(bias) = &self.bias {
            rows::add_bias_to(bias, y, bias.len());
        }
        self.product(n, x, y, Accumulate::Add, split);
    }

    fn product(&self, n: usize, x: &[f32], y: &mut [f32], over: Accumulate, split: bool) {
        let inputs = x.len() / n.max(1);
        let mut rounded = None;
        for DecoderMap { matrix, first, adapter } in &self.maps {
            let y = &mut y[*first..];
            match matrix {
                PackedMatrix::F32(matrix) => matrix.gemm_parallel(x, y, over, split),
                PackedMatrix::Frozen(matrix) => {
                    let x = rounded.get_or_insert_with(|| Bf16Rows::new(Matrix::rows(x, inputs), n, inputs));
                    matrix.product_split(x, y, self.outputs, over, split);
                }
            }
            if let Some(([a, b], scale)) = adapter {
                let (rank, mut low) = (a.outputs, PooledBuffer::new(n * a.outputs));
                a.gemm_range((n, 0..inputs, rank), Matrix::rows(x, inputs), &mut low, rank, Accumulate::Write, *scale);
                let shape = (n, 0..b.inputs(), b.outputs);
                b.gemm_range(shape, Matrix::rows(&low, a.outputs), y, self.outputs, Accumulate::Add, 1.0);
            }
        }
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
        self.up.outputs
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
        let (multiplier, n) = (self.options.residual_multiplier, x.len() / map.outputs);
        if multiplier == 1.0 && norm.is_none() {
            map.add(n, inner, x, split);
            return;
        }
        added.resize(x.len(), 0.0);
        map.write(n, inner, added, split);
        if norm.is_none() {
            rows::add_scaled(added, multiplier, x);
            return;
        }
        normed.resize(x.len(), 0.0);
        norm.forward(added, epsilon, normed, &mut statistics[..norm.statistics(x.len())]);
        rows::add_scaled(normed, multiplier, x);
    }
}

/// Maps of the same inputs as one, heads ordered by kind. Matrices in f32 become one, into which adapters are merged; frozen ones
/// stay as they are, and their adapters beside them.
fn side_by_side(shape: BlockShape, w: &BlockWeights<'_>, maps: &[usize]) -> DecoderLinear {
    let sizes = shape.linears();
    let inputs = maps.first().map_or(0, |&map| sizes[map][0]);
    let outputs: usize = maps.iter().map(|&map| sizes[map][1]).sum();
    let is_by_head = maps == [0] && shape.options.order == HeadOrder::ByHead;
    let by_head = is_by_head.then_some(shape);
    let mut biases = vec![];
    if maps.iter().any(|&map| !w.maps[map].bias.is_empty()) {
        for &map in maps {
            match w.maps[map].bias {
                [] => biases.resize(biases.len() + sizes[map][1], 0.0),
                bias => biases.extend_from_slice(bias),
            }
        }
    }
    if let Some(shape) = by_head {
        biases = by_kind(&biases, shape);
    }
    let bias = (!biases.is_empty()).then_some(biases);
    let frozen = maps.iter().map(|&map| match w.maps[map].matrix {
        LinearMatrix::Frozen(matrix) => Some((map, matrix)),
        LinearMatrix::F32 { .. } => None,
    });
    if let Some(frozen) = frozen.collect::<Option<Vec<_>>>() {
        let mut first = 0;
        let of = |(map, matrix): (usize, &Arc<FrozenMatrix>)| {
            first += matrix.outputs();
            frozen_map(&w.maps[map], matrix, first - matrix.outputs(), by_head)
        };
        return DecoderLinear { maps: frozen.into_iter().map(of).collect(), bias, outputs };
    }
    let mut joint = PooledBuffer::new(inputs * outputs); // [inputs, outputs]
    let mut first = 0;
    for &map in maps {
        write_merged(&w.maps[map], sizes[map], &mut joint[first..], outputs);
        first += sizes[map][1];
    }
    if let Some(shape) = by_head {
        let ordered = by_kind(&joint, shape);
        joint.copy_from_slice(&ordered);
    }
    DecoderLinear::new(PackedMatrix::F32(Packed::new(Matrix::rows(&joint, outputs), inputs, outputs)), outputs, bias)
}

/// A map whose matrix is frozen; queries, keys and values that stand head by head are ordered by kind.
fn frozen_map(
    map: &LinearWeights<'_>,
    matrix: &Arc<FrozenMatrix>,
    first: usize,
    by_head: Option<BlockShape>,
) -> DecoderMap {
    let (inputs, outputs) = (matrix.inputs(), matrix.outputs());
    let (mut matrix, mut b) = (matrix.clone(), map.b.to_vec());
    if let Some(shape) = by_head {
        matrix = Arc::new(matrix.with_columns(&by_kind(&(0..outputs).collect::<Vec<_>>(), shape)));
        b = by_kind(&b, shape);
    }
    let rank = map.rank(inputs);
    let adapter = (rank > 0).then(|| {
        let a = Packed::new(Matrix::rows(map.a, rank), inputs, rank);
        ([a, Packed::new(Matrix::rows(&b, outputs), rank, outputs)], map.scale)
    });
    DecoderMap { matrix: PackedMatrix::Frozen(matrix), first, adapter }
}

/// Rows `[H, 3, E]` as `[3, H, E]`.
fn by_kind<T: Copy>(rows: &[T], shape: BlockShape) -> Vec<T> {
    let (heads, e) = (shape.heads, shape.head_width);
    let kind = |row: &[T], kind: usize| -> Vec<T> {
        (0..heads).flat_map(|head| row[(3 * head + kind) * e..][..e].to_vec()).collect()
    };
    rows.chunks_exact(3 * heads * e).flat_map(|row| (0..3).flat_map(|which| kind(row, which))).collect()
}

/// Writes a map's matrix `[inputs, outputs]` with its adapter merged, rows `step` apart.
fn write_merged(map: &LinearWeights<'_>, [inputs, outputs]: [usize; 2], to: &mut [f32], step: usize) {
    match map.matrix {
        LinearMatrix::F32 { values, turned: true } => {
            for (input, row) in to.chunks_mut(step).take(inputs).enumerate() {
                row.iter_mut().zip(values[input..].iter().step_by(inputs)).for_each(|(to, from)| *to = *from);
            }
        }
        LinearMatrix::F32 { values, turned: false } => write_rows(values, outputs, to, step),
        LinearMatrix::Frozen(matrix) => write_rows(&matrix.values(), outputs, to, step),
    }
    if !map.a.is_empty() {
        let rank = map.rank(inputs);
        let (a, b) = (Matrix::rows(map.a, rank), Matrix::rows(map.b, outputs));
        product([inputs, rank, outputs], to, step, Accumulate::Add, a, b, map.scale);
    }
}

/// Writes rows of `width` numbers `step` apart.
fn write_rows(rows: &[f32], width: usize, to: &mut [f32], step: usize) {
    to.chunks_mut(step).zip(rows.chunks_exact(width)).for_each(|(to, row)| to[..width].copy_from_slice(row));
}
