//! A transformer block as one operation, with what the families since Llama add to it: `x₁ = x + m·norm(attention(norm(x)))`,
//! `y = x₁ + m·norm(mlp(norm(x₁)))`, or both from `x`. Any norm may be absent, any map may have a bias and an adapter, and
//! [`BlockOptions`] says the rest. [`gpt2_forward`](crate::gpt2_forward) is the same for GPT-2's own, without adapters.

use crate::activation::Activation;
use crate::attention::{AttentionShape, HeadOrder, ScoreOptions};
use crate::attention_batch;
use crate::buffer::PooledBuffer;
use crate::linear::{LinearGradient, LinearWeights, PackedLinear};
use crate::matrix::{Accumulate, Matrix};
use crate::norm::{NormGradient, NormWeights};
use crate::rows;
use rayon::prelude::*;

/// Sizes of a block and of its batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockShape {
    /// Sequences, `B`.
    pub sequences: usize,
    /// `L`
    pub columns: usize,
    /// `D`
    pub width: usize,
    /// `H`
    pub heads: usize,
    /// Heads of keys and values, `G`.
    pub key_value_heads: usize,
    /// `E`
    pub head_width: usize,
    /// `F`
    pub inner: usize,
    pub epsilon: f32,
    pub options: BlockOptions,
}

/// How a block is made; the default is Llama's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockOptions {
    pub scores: ScoreOptions,
    pub order: HeadOrder,
    /// Whether queries, keys and values are the outputs of one map, `[D, (H + 2G)·E]`.
    pub joint_qkv: bool,
    pub mlp: BlockMlp,
    pub activation: Activation,
    /// Whether the MLP reads the block's input, and not what attention has added to.
    pub parallel: bool,
    /// What attention and MLP add is multiplied by this, `m`.
    pub residual_multiplier: f32,
}

/// The maps of a block's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockMlp {
    /// `down(activation(up(x)))`
    Plain,
    /// `down(activation(gate(x)) · up(x))`, Shazeer 2020.
    Gated,
    /// The same with gate and up side by side in one map, `[D, 2F]`.
    JointGated,
}

impl Default for BlockOptions {
    fn default() -> Self {
        Self {
            scores: ScoreOptions::default(),
            order: HeadOrder::ByKind,
            joint_qkv: false,
            mlp: BlockMlp::Gated,
            activation: Activation::Silu,
            parallel: false,
            residual_multiplier: 1.0,
        }
    }
}

/// A block's maps, in this order wherever seven of anything stand: queries (or the joint one), keys, values, out, gate (or
/// gate and up), up, down.
pub const N_LINEAR: usize = 7;
/// A block's norms, in this order wherever six of anything stand: before attention, before the MLP, after attention, after
/// the MLP, of queries, of keys.
pub const N_NORM: usize = 6;

/// A block's parameters; a norm or a map that it does not have is the default. Norms of queries and keys are as wide as
/// a head, or as all of them side by side.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockWeights<'a> {
    pub norms: [NormWeights<'a>; N_NORM],
    pub maps: [LinearWeights<'a>; N_LINEAR],
}

/// Gradients in the shapes of [`BlockWeights`].
#[derive(Debug, Clone, Default)]
pub struct BlockGradient {
    pub norms: [NormGradient; N_NORM],
    pub maps: [LinearGradient; N_LINEAR],
}

/// `cos` and `sin` of the rotary angles of the first `units` units of a head, `[context, units/2]` each.
#[derive(Debug, Clone)]
pub struct RopeTables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub units: usize,
}

impl RopeTables {
    /// `cos` and `sin` of a position.
    pub(crate) fn at(&self, position: usize) -> [&[f32]; 2] {
        let half = self.units / 2;
        [&self.cos, &self.sin].map(|table| &table[position * half..][..half])
    }
}

/// The rotary angles of a block, where it has them, and the padding before each sequence.
#[derive(Debug, Clone, Copy, Default)]
pub struct RopeAndPadding<'a> {
    pub rope: Option<&'a RopeTables>,
    pub padding: Option<&'a [usize]>,
}

impl RopeAndPadding<'_> {
    /// The padding before some sequences, from `first` on.
    pub(crate) fn paddings(self, first: usize, sequences: usize) -> Vec<usize> {
        self.padding.map_or_else(|| vec![0; sequences], |padding| padding[first..first + sequences].to_vec())
    }
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Clone)]
pub struct BlockSaved {
    pub(crate) shards: Vec<ShardSaved>,
}

/// The part of a shard of `N` tokens; what its block does not need is empty.
#[derive(Debug, Clone)]
pub(crate) struct ShardSaved {
    /// Statistics of the norms' rows.
    pub statistics: [PooledBuffer; N_NORM],
    /// Queries, keys and values as the maps gave them, where queries and keys are normed, `[N, (H + 2G)·E]`.
    pub raw: PooledBuffer,
    /// Rotated queries, rotated keys, values, `[N, (H + 2G)·E]`.
    pub qkv: PooledBuffer,
    /// What attention mixed, `[N, H·E]`.
    pub mixed: PooledBuffer,
    /// What attention and MLP gave, before their norms, `[N, D]` each.
    pub added: [PooledBuffer; 2],
    /// After attention, `[N, D]`, where the MLP reads it.
    pub middle: PooledBuffer,
    /// Before the activation, `[N, F]`; of a gated MLP gate and up side by side, `[N, 2F]`.
    pub inner: PooledBuffer,
}

/// Tokens of a shard, about.
const SHARD: usize = 128;
/// The maps whose outputs attention and MLP add.
pub(crate) const OUT: [usize; 2] = [3, 6];

impl BlockShape {
    pub(crate) fn attention(self) -> AttentionShape {
        let Self { columns, heads, key_value_heads, head_width: width, options, .. } = self;
        let BlockOptions { order, scores, .. } = options;
        AttentionShape { columns, heads, key_value_heads, order, scores, width, padding: 0 }
    }

    /// Sequences of a shard.
    pub(crate) fn shard(self) -> usize {
        (SHARD / self.columns).max(1)
    }

    /// Width of queries, and of keys and of values.
    pub(crate) fn widths(self) -> [usize; 2] {
        [self.heads * self.head_width, self.key_value_heads * self.head_width]
    }

    /// Numbers before the activation, `F` or `2F`.
    pub(crate) fn wide(self) -> usize {
        if self.options.mlp == BlockMlp::Plain { self.inner } else { 2 * self.inner }
    }

    /// Inputs and outputs of each map.
    pub(crate) fn linears(self) -> [[usize; 2]; N_LINEAR] {
        let ([q, kv], d, f, none) = (self.widths(), self.width, self.inner, [0, 0]);
        let [to_q, to_k, to_v] =
            if self.options.joint_qkv { [[d, q + 2 * kv], none, none] } else { [[d, q], [d, kv], [d, kv]] };
        let [gate, up] = match self.options.mlp {
            BlockMlp::Plain => [none, [d, f]],
            BlockMlp::Gated => [[d, f]; 2],
            BlockMlp::JointGated => [[d, 2 * f], none],
        };
        [to_q, to_k, to_v, [q, d], gate, up, [f, d]]
    }

    /// The maps that read normed rows, of attention and of the MLP, and where in a row their outputs stand.
    pub(crate) fn inputs(self) -> [Vec<(usize, usize)>; 2] {
        let ([q, kv], linears) = (self.widths(), self.linears());
        let up = if self.options.mlp == BlockMlp::Gated { self.inner } else { 0 };
        let exist = |maps: &[(usize, usize)]| maps.iter().copied().filter(|(map, _)| linears[*map][1] > 0).collect();
        [exist(&[(0, 0), (1, q), (2, q + kv)]), exist(&[(4, 0), (5, up)])]
    }

    /// The largest rank of the adapters.
    pub(crate) fn rank(self, w: &BlockWeights<'_>) -> usize {
        let ranks = w.maps.iter().zip(self.linears()).map(|(map, [inputs, _])| map.rank(inputs));
        ranks.max().unwrap_or(0)
    }

    /// Rotates queries and keys of one sequence by their rotary angles, `sign` 1, or back, −1.
    pub(crate) fn rotate(self, qkv: &mut [f32], rope: &RopeTables, padding: usize, sign: f32) {
        let ([q, kv], e, heads) = (self.widths(), self.head_width, self.attention());
        for (column, row) in qkv.chunks_exact_mut(q + 2 * kv).enumerate() {
            let [cos, sin] = rope.at(column.saturating_sub(padding));
            match self.options.order {
                HeadOrder::ByKind => rows::rotate(&mut row[..q + kv], e, cos, sin, sign),
                HeadOrder::ByHead => {
                    let both = (0..self.heads).map(|head| heads.at(head, 0));
                    both.for_each(|from| rows::rotate(&mut row[from..from + 2 * e], e, cos, sin, sign));
                }
            }
        }
    }
}

/// The block's output `[N, D]`, and what its backward pass needs, from `x` `[N, D]`. What stands in padded columns is not
/// attended to.
pub fn block_forward(
    shape: BlockShape,
    w: BlockWeights<'_>,
    x: &[f32],
    positions: RopeAndPadding<'_>,
) -> (Vec<f32>, BlockSaved) {
    let mut y = vec![0f32; x.len()];
    let mut maps = w.maps.into_iter().zip(shape.linears()).map(|(map, sizes)| PackedLinear::linear_forward(map, sizes));
    let maps = std::array::from_fn(|_| maps.next().expect("seven maps"));
    let (rank, inputs) = (shape.rank(&w), shape.inputs());
    let forward = BlockForwardPass { shape, w, maps: &maps, inputs, rank, positions };
    let numbers = shape.shard() * shape.columns * shape.width;
    let shards = x.par_chunks(numbers).zip(y.par_chunks_mut(numbers)).enumerate();
    let shards = shards.map(|(shard, (x, y))| forward.shard(shard * shape.shard(), x, y)).collect();
    (y, BlockSaved { shards })
}

/// All that a forward pass reads.
struct BlockForwardPass<'a> {
    shape: BlockShape,
    w: BlockWeights<'a>,
    maps: &'a [PackedLinear<'a>; N_LINEAR],
    /// [`BlockShape::inputs`]
    inputs: [Vec<(usize, usize)>; 2],
    rank: usize,
    positions: RopeAndPadding<'a>,
}

impl BlockForwardPass<'_> {
    /// Some sequences, from `first` on.
    fn shard(&self, first: usize, x: &[f32], y: &mut [f32]) -> ShardSaved {
        let BlockShape { width: d, options, .. } = self.shape;
        let n = x.len() / d;
        let mut saved = self.saved(n);
        let mut low = PooledBuffer::new(n * self.rank);
        let (mut normed, mut middle) = (PooledBuffer::new(n * d), PooledBuffer::new(n * d));

        // 1. x₁ = x + m·norm(attention(norm(x)))
        self.norm_before(0, x, &mut normed, &mut saved);
        self.read(0, &normed, &mut saved.qkv, &mut low);
        self.attend(first, &mut saved);
        let ShardSaved { mixed, added: [added, _], statistics, .. } = &mut saved;
        middle.copy_from_slice(x);
        self.add_normed(0, mixed, &mut middle, added, &mut statistics[2], &mut low);

        // 2. y = x₁ + m·norm(mlp(norm(x₁)))
        self.norm_before(1, if options.parallel { x } else { &middle }, &mut normed, &mut saved);
        self.read(1, &normed, &mut saved.inner, &mut low);
        let mut activated = PooledBuffer::new(n * self.shape.inner);
        self.shape.activate(&saved.inner, &mut activated);
        let ShardSaved { added: [_, added], statistics, .. } = &mut saved;
        y.copy_from_slice(&middle);
        self.add_normed(1, &activated, y, added, &mut statistics[3], &mut low);
        if !options.parallel {
            saved.middle = middle;
        }
        saved
    }

    /// Buffers for so many tokens.
    fn saved(&self, n: usize) -> ShardSaved {
        let ([q, kv], d, norms) = (self.shape.widths(), self.shape.width, &self.w.norms);
        let widths = [d, d, d, d, q, kv];
        let new = |width: usize, is_needed: bool| PooledBuffer::new(if is_needed { n * width } else { 0 });
        ShardSaved {
            statistics: std::array::from_fn(|i| norms[i].buffer(n * widths[i])),
            raw: new(q + 2 * kv, !norms[4].is_none()),
            qkv: new(q + 2 * kv, true),
            mixed: new(q, true),
            added: [2, 3].map(|norm| new(d, !norms[norm].is_none())),
            middle: PooledBuffer::new(0),
            inner: new(self.shape.wide(), true),
        }
    }

    /// What attention (0) or the MLP (1) reads.
    fn norm_before(&self, part: usize, x: &[f32], normed: &mut [f32], saved: &mut ShardSaved) {
        match self.w.norms[part] {
            norm if norm.is_none() => normed.copy_from_slice(x),
            norm => norm.forward(x, self.shape.epsilon, normed, &mut saved.statistics[part]),
        }
    }

    /// The maps of attention (0) or of the MLP (1) that read normed rows, side by side.
    fn read(&self, part: usize, normed: &[f32], y: &mut [f32], low: &mut PooledBuffer) {
        let n = normed.len() / self.shape.width;
        let (x, step) = (Matrix::rows(normed, self.shape.width), y.len() / n);
        for &(map, from) in &self.inputs[part] {
            self.maps[map].apply(n, x, &mut y[from..], step, Accumulate::Write, low);
        }
    }

    /// Norms and rotates queries and keys, and mixes.
    fn attend(&self, first: usize, saved: &mut ShardSaved) {
        let (shape, [q, kv]) = (self.shape, self.shape.widths());
        let row = q + 2 * kv;
        let ShardSaved { statistics, raw, qkv, mixed, .. } = saved;
        for (which, from, width) in [(4, 0, q), (5, q, kv)] {
            let norm = self.w.norms[which];
            if norm.is_none() {
                continue;
            }
            if which == 4 {
                raw.copy_from_slice(qkv);
            }
            let step = norm.statistics(width);
            let tokens = raw.chunks_exact(row).zip(qkv.chunks_exact_mut(row));
            for ((raw, qkv), statistics) in tokens.zip(statistics[which].chunks_exact_mut(step)) {
                norm.forward(&raw[from..from + width], shape.epsilon, &mut qkv[from..from + width], statistics);
            }
        }
        let sequence = shape.columns * row;
        let paddings = self.positions.paddings(first, qkv.len() / sequence);
        if let Some(rope) = self.positions.rope {
            let sequences = qkv.chunks_mut(sequence).zip(&paddings);
            sequences.for_each(|(qkv, &padding)| shape.rotate(qkv, rope, padding, 1.0));
        }
        attention_batch::forward(shape.attention(), &paddings, qkv, mixed);
    }

    /// `y = y + m·norm(map(inner))`, for attention (0) or the MLP (1); `added` takes what is normed.
    fn add_normed(
        &self,
        part: usize,
        inner: &[f32],
        y: &mut [f32],
        added: &mut [f32],
        statistics: &mut [f32],
        low: &mut PooledBuffer,
    ) {
        let (d, multiplier, norm) = (self.shape.width, self.shape.options.residual_multiplier, self.w.norms[2 + part]);
        let (n, map) = (y.len() / d, &self.maps[OUT[part]]);
        let inner = Matrix::rows(inner, inner.len() / n);
        if multiplier == 1.0 && norm.is_none() {
            map.apply(n, inner, y, d, Accumulate::Add, low);
            return;
        }
        let mut branch = PooledBuffer::new(n * d);
        if norm.is_none() {
            map.apply(n, inner, &mut branch, d, Accumulate::Write, low);
        } else {
            map.apply(n, inner, added, d, Accumulate::Write, low);
            norm.forward(added, self.shape.epsilon, &mut branch, statistics);
        }
        rows::add_scaled(&branch, multiplier, y);
    }
}

impl BlockShape {
    /// `[N, F]` of what stands before the activation.
    pub(crate) fn activate(self, inner: &[f32], activated: &mut [f32]) {
        match self.options.mlp {
            BlockMlp::Plain => rows::activation(self.options.activation, inner, activated),
            BlockMlp::Gated | BlockMlp::JointGated => {
                rows::gated(self.options.activation, inner, self.inner, activated);
            }
        }
    }
}
