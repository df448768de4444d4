//! The way back through a block.

use crate::attention_batch;
use crate::block::{
    BlockGradient, BlockMlp, BlockSaved, BlockShape, BlockWeights, N_LINEAR, N_NORM, OUT, RopeAndPadding, ShardSaved,
};
use crate::buffer::PooledBuffer;
use crate::linear::{LinearGradient, PackedLinear};
use crate::matrix::{Accumulate, Matrix};
use crate::norm::NormGradient;
use crate::rows;
use rayon::prelude::*;
use std::ops::Range;

/// Most groups of shards; each sums its own gradient of the parameters.
const GROUPS: usize = 8;

/// The gradient of the block's input `[N, D]`, and of its parameters, from that of its output; of those matrices that are
/// `needed`, and of all biases, norms and adapters.
pub fn block_backward(
    shape: BlockShape,
    w: BlockWeights<'_>,
    x: &[f32],
    saved: &BlockSaved,
    positions: RopeAndPadding<'_>,
    dy: &[f32],
    needed: [bool; N_LINEAR],
) -> (Vec<f32>, BlockGradient) {
    let (d, n) = (shape.width, shape.sequences * shape.columns);
    let mut maps =
        w.maps.into_iter().zip(shape.linears()).map(|(map, sizes)| PackedLinear::linear_backward(map, sizes));
    let maps: [PackedLinear<'_>; N_LINEAR] = std::array::from_fn(|_| maps.next().expect("seven maps"));
    let rank = shape.rank(&w);
    let back = BlockBackwardPass { shape, w, maps: &maps, rank, x, saved, positions, dy };
    let mut dx = vec![0f32; n * d];

    // 1. Group by group, each shard after shard.
    let shard = shape.shard() * shape.columns;
    let shards = n.div_ceil(shard);
    let group = shards.div_ceil((shards / 2).clamp(1, GROUPS)) * shard;
    let groups: Vec<BlockGradient> = dx
        .par_chunks_mut(group * d)
        .enumerate()
        .map(|(index, dx)| {
            let mut gradient = BlockGradient::zeros(shape, &w, needed);
            for (i, dx) in dx.chunks_mut(shard * d).enumerate() {
                let first = index * group + i * shard;
                back.shard(first..first + dx.len() / d, dx, &mut gradient);
            }
            gradient
        })
        .collect();

    // 2. The groups' sum.
    let mut groups = groups.into_iter();
    let mut sum = groups.next().unwrap_or_default();
    groups.for_each(|group| sum.add(&group));
    (dx, sum)
}

impl BlockGradient {
    fn zeros(shape: BlockShape, w: &BlockWeights<'_>, needed: [bool; N_LINEAR]) -> Self {
        let sizes = shape.linears();
        Self {
            norms: w.norms.map(|norm| norm.zeros()),
            maps: std::array::from_fn(|i| LinearGradient::zeros(w.maps[i], sizes[i], needed[i])),
        }
    }

    fn add(&mut self, other: &Self) {
        add_norms(&other.norms, &mut self.norms);
        for (sum, map) in self.maps.iter_mut().zip(&other.maps) {
            rows::add(&map.weight, &mut sum.weight);
            rows::add(&map.bias, &mut sum.bias);
            rows::add(&map.a, &mut sum.a);
            rows::add(&map.b, &mut sum.b);
        }
    }
}

fn add_norms(norms: &[NormGradient; N_NORM], sums: &mut [NormGradient; N_NORM]) {
    for (sum, norm) in sums.iter_mut().zip(norms) {
        rows::add(&norm.gain, &mut sum.gain);
        rows::add(&norm.bias, &mut sum.bias);
    }
}

/// All that a backward pass reads.
struct BlockBackwardPass<'a> {
    shape: BlockShape,
    w: BlockWeights<'a>,
    maps: &'a [PackedLinear<'a>; N_LINEAR],
    rank: usize,
    x: &'a [f32],
    saved: &'a BlockSaved,
    positions: RopeAndPadding<'a>,
    dy: &'a [f32],
}

/// What a shard's pass writes besides `dx`.
struct ShardGradient<'a> {
    /// Of the maps, which are added to.
    maps: &'a mut [LinearGradient; N_LINEAR],
    /// Of the norms in this shard alone.
    norms: [NormGradient; N_NORM],
    /// Between the matrices of an adapter, `[n, r]` each.
    low: PooledBuffer,
    other_low: PooledBuffer,
}

impl BlockBackwardPass<'_> {
    /// Some tokens: `dx` is written, the parameters' gradients are added to.
    fn shard(&self, tokens: Range<usize>, dx: &mut [f32], sum: &mut BlockGradient) {
        let (d, n) = (self.shape.width, tokens.len());
        let of = tokens.start * d..tokens.end * d;
        let (x, dy) = (&self.x[of.clone()], &self.dy[of]);
        let first = tokens.start / self.shape.columns;
        let saved = &self.saved.shards[first / self.shape.shard()];
        let new = |width: usize| PooledBuffer::new(n * width);
        let BlockGradient { maps, norms } = sum;
        let mut gradient = ShardGradient {
            maps,
            norms: self.w.norms.map(|norm| norm.zeros()),
            low: new(self.rank),
            other_low: new(self.rank),
        };
        let mut d_middle = new(d); // takes the residual's gradient too
        d_middle.copy_from_slice(dy);
        if self.shape.options.parallel {
            self.mlp(x, dy, saved, &mut d_middle, &mut gradient);
            dx.copy_from_slice(&d_middle);
            self.attention(first, x, dy, saved, dx, &mut gradient);
        } else {
            self.mlp(&saved.middle, dy, saved, &mut d_middle, &mut gradient);
            dx.copy_from_slice(&d_middle);
            self.attention(first, x, &d_middle, saved, dx, &mut gradient);
        }
        add_norms(&gradient.norms, norms);
    }

    /// Adds to `d_source` what the MLP gives, which read `source`.
    fn mlp(&self, source: &[f32], dy: &[f32], saved: &ShardSaved, d_source: &mut [f32], g: &mut ShardGradient<'_>) {
        let BlockShape { width: d, inner: f, options, .. } = self.shape;
        let n = source.len() / d;
        let (mut activated, mut d_activated) = (PooledBuffer::new(n * f), PooledBuffer::new(n * f));
        let branch = self.before_norm(1, dy, saved, g);
        let dy = Matrix::rows(branch.as_deref().unwrap_or(dy), d);
        self.shape.activate(&saved.inner, &mut activated);
        self.through(OUT[1], Matrix::rows(&activated, f), dy, &mut d_activated, Accumulate::Write, g);
        let d_inner = match options.mlp {
            BlockMlp::Plain => {
                rows::activation_backward(options.activation, &saved.inner, &mut d_activated, &mut activated);
                d_activated
            }
            BlockMlp::Gated | BlockMlp::JointGated => {
                let mut d_inner = PooledBuffer::new(saved.inner.len());
                rows::gated_backward(options.activation, &saved.inner, f, &d_activated, &mut d_inner);
                d_inner
            }
        };
        self.back_to_source(1, source, &d_inner, saved, d_source, g);
    }

    /// Adds to `dx` what attention gives, from the gradient `d_middle` of what it is added to.
    fn attention(
        &self,
        first: usize,
        x: &[f32],
        d_middle: &[f32],
        saved: &ShardSaved,
        dx: &mut [f32],
        g: &mut ShardGradient<'_>,
    ) {
        let (shape, d, columns) = (self.shape, self.shape.width, self.shape.columns);
        let ([q, kv], n) = (shape.widths(), x.len() / d);
        let row = q + 2 * kv;
        let (mut d_mixed, mut d_qkv) = (PooledBuffer::new(n * q), PooledBuffer::new(n * row));
        let branch = self.before_norm(0, d_middle, saved, g);
        let dy = Matrix::rows(branch.as_deref().unwrap_or(d_middle), d);
        self.through(OUT[0], Matrix::rows(&saved.mixed, q), dy, &mut d_mixed, Accumulate::Write, g);
        let paddings = self.positions.paddings(first, n / columns);
        attention_batch::backward(shape.attention(), &paddings, &saved.qkv, &d_mixed, &mut d_qkv);
        if let Some(rope) = self.positions.rope {
            let sequences = d_qkv.chunks_mut(columns * row).zip(&paddings);
            sequences.for_each(|(d_qkv, &padding)| shape.rotate(d_qkv, rope, padding, -1.0));
        }
        for (which, from, width) in [(4, 0, q), (5, q, kv)] {
            let norm = self.w.norms[which];
            if norm.is_none() {
                continue;
            }
            let mut dy = vec![0f32; width];
            let tokens = saved.raw.chunks_exact(row).zip(d_qkv.chunks_exact_mut(row));
            let statistics = saved.statistics[which].chunks_exact(norm.statistics(width));
            for ((raw, d_qkv), statistics) in tokens.zip(statistics) {
                let part = from..from + width;
                dy.copy_from_slice(&d_qkv[part.clone()]);
                d_qkv[part.clone()].fill(0.0);
                norm.backward(&dy, &raw[part.clone()], statistics, &mut d_qkv[part], &mut g.norms[which]);
            }
        }
        self.back_to_source(0, x, &d_qkv, saved, dx, g);
    }

    /// The gradient of what attention (0) or the MLP (1) gave, before its norm and multiplier, where it has them.
    fn before_norm(
        &self,
        part: usize,
        dy: &[f32],
        saved: &ShardSaved,
        g: &mut ShardGradient<'_>,
    ) -> Option<PooledBuffer> {
        let (multiplier, norm) = (self.shape.options.residual_multiplier, self.w.norms[2 + part]);
        if multiplier == 1.0 && norm.is_none() {
            return None;
        }
        let mut scaled = PooledBuffer::new(dy.len());
        rows::scale(dy, multiplier, &mut scaled);
        if norm.is_none() {
            return Some(scaled);
        }
        let mut d_added = PooledBuffer::new(dy.len());
        d_added.fill(0.0);
        let statistics = &saved.statistics[2 + part];
        norm.backward(&scaled, &saved.added[part], statistics, &mut d_added, &mut g.norms[2 + part]);
        Some(d_added)
    }

    /// From the gradient of what the maps of attention (0) or of the MLP (1) gave, `d_rows`, to that of what was normed.
    fn back_to_source(
        &self,
        part: usize,
        source: &[f32],
        d_rows: &[f32],
        saved: &ShardSaved,
        d_source: &mut [f32],
        g: &mut ShardGradient<'_>,
    ) {
        let (d, norm, statistics) = (self.shape.width, self.w.norms[part], &saved.statistics[part]);
        let (mut normed, mut d_normed) = (PooledBuffer::new(source.len()), PooledBuffer::new(source.len()));
        match norm.is_none() {
            true => normed.copy_from_slice(source),
            false => norm.again(source, statistics, &mut normed),
        }
        let step = d_rows.len() / (source.len() / d);
        let mut over = Accumulate::Write;
        for &(map, from) in &self.shape.inputs()[part] {
            let (x, dy) = (Matrix::rows(&normed, d), Matrix::rows(&d_rows[from..], step));
            self.through(map, x, dy, &mut d_normed, over, g);
            over = Accumulate::Add;
        }
        match norm.is_none() {
            true => rows::add(&d_normed, d_source),
            false => norm.backward(&d_normed, source, statistics, d_source, &mut g.norms[part]),
        }
    }

    /// Back through one map.
    fn through(
        &self,
        map: usize,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        d_input: &mut [f32],
        over: Accumulate,
        g: &mut ShardGradient<'_>,
    ) {
        let [inputs, outputs] = self.shape.linears()[map];
        let n = d_input.len() / inputs;
        self.maps[map].apply(n, dy, d_input, inputs, over, &mut g.low);
        g.maps[map].add_rows(self.w.maps[map], [inputs, n, outputs], x, dy, &g.low, &mut g.other_low);
    }
}
