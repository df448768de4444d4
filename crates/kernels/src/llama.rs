//! A Llama block as one operation: `x₁ = x + attention(norm(x))`, `y = x₁ + mlp(norm(x₁))`, with RMS norms, rotary
//! positions, grouped queries and a gated MLP, and with a low-rank adapter on each of its seven matrices where one is on.

use crate::attention::{self, AttentionShape};
use crate::buffer::PooledBuffer;
use crate::matrix::{Accumulate, Matrix};
use crate::product::{Packed, product};
use crate::rows;
use rayon::prelude::*;
use std::ops::Range;

/// Sizes of a block and of its batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LlamaShape {
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
    /// Rank of the adapters, `r`; 0 where none is on.
    pub rank: usize,
    /// The adapters' `α/r`.
    pub scale: f32,
}

/// A matrix `[inputs, outputs]`, and its adapter `[inputs, r]`, `[r, outputs]`, empty where none is on.
#[derive(Debug, Clone, Copy)]
pub struct LinearWeights<'a> {
    pub weight: &'a [f32],
    /// Whether the matrix stands as `[outputs, inputs]`, as files have it.
    pub turned: bool,
    pub a: &'a [f32],
    pub b: &'a [f32],
}

impl<'a> LinearWeights<'a> {
    /// `[inputs, outputs]`, however it stands.
    pub(crate) fn matrix(self, [inputs, outputs]: [usize; 2]) -> Matrix<'a> {
        if self.turned { Matrix::rows(self.weight, inputs).t() } else { Matrix::rows(self.weight, outputs) }
    }
}

/// A block's maps, in this order wherever seven of anything stand: queries, keys, values, out, gate, up, down.
pub const N_LINEAR: usize = 7;

/// A block's parameters.
#[derive(Debug, Clone, Copy)]
pub struct LlamaWeights<'a> {
    /// Gains, `[D]` each.
    pub norms: [&'a [f32]; 2],
    pub maps: [LinearWeights<'a>; N_LINEAR],
}

/// `cos` and `sin` of the rotary angles, `[context, E/2]` each, and the padding before each sequence.
#[derive(Debug, Clone, Copy)]
pub struct RopeAndPadding<'a> {
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    pub padding: Option<&'a [usize]>,
}

/// What the forward pass leaves for the backward pass.
#[derive(Debug, Clone)]
pub struct LlamaSaved {
    /// 1/rms of both norms' rows, `[N]` each.
    scales: [PooledBuffer; 2],
    /// Rotated queries, rotated keys, values, `[N, (H + 2G)·E]`.
    qkv: PooledBuffer,
    /// What attention mixed, `[N, H·E]`.
    mixed: PooledBuffer,
    /// After attention, `[N, D]`.
    middle: PooledBuffer,
    /// `[N, F]` each.
    gate: PooledBuffer,
    up: PooledBuffer,
}

/// Gradients in the shapes of [`LlamaWeights`]; those of matrices that are not needed are empty.
#[derive(Debug, Clone, Default)]
pub struct LlamaGradient {
    pub norms: [Vec<f32>; 2],
    pub weights: [Vec<f32>; N_LINEAR],
    pub a: [Vec<f32>; N_LINEAR],
    pub b: [Vec<f32>; N_LINEAR],
}

/// Tokens of a shard, about.
const SHARD: usize = 128;
/// Most groups of shards in the backward pass; each sums its own gradient of the parameters.
const GROUPS: usize = 8;

impl LlamaShape {
    fn heads_of(self, padding: usize) -> AttentionShape {
        let Self { columns, heads, key_value_heads, head_width: width, .. } = self;
        AttentionShape { columns, heads, key_value_heads, width, padding }
    }

    /// Sequences of a shard.
    fn shard(self) -> usize {
        (SHARD / self.columns).max(1)
    }

    /// Width of queries, and of keys and of values.
    fn widths(self) -> [usize; 2] {
        [self.heads * self.head_width, self.key_value_heads * self.head_width]
    }

    /// Inputs and outputs of each map.
    fn linears(self) -> [[usize; 2]; N_LINEAR] {
        let ([q, kv], d, f) = (self.widths(), self.width, self.inner);
        [[d, q], [d, kv], [d, kv], [q, d], [d, f], [d, f], [f, d]]
    }
}

/// A map ready for products one way: its matrix and its adapter's two.
struct PackedLinear {
    weight: Packed,
    adapter: Option<(Packed, Packed)>,
}

impl PackedLinear {
    /// `x·W + scale·x·A·B`
    fn linear_forward(map: LinearWeights<'_>, sizes @ [inputs, outputs]: [usize; 2], rank: usize) -> Self {
        let pack = |w: &[f32], inputs, outputs| Packed::new(Matrix::rows(w, outputs), inputs, outputs);
        let adapter = (rank > 0).then(|| (pack(map.a, inputs, rank), pack(map.b, rank, outputs)));
        Self { weight: Packed::new(map.matrix(sizes), inputs, outputs), adapter }
    }

    /// The same from outputs to inputs.
    fn linear_backward(map: LinearWeights<'_>, sizes @ [inputs, outputs]: [usize; 2], rank: usize) -> Self {
        let turn = |w: &[f32], inputs, outputs| Packed::new(Matrix::rows(w, outputs).t(), outputs, inputs);
        let adapter = (rank > 0).then(|| (turn(map.b, rank, outputs), turn(map.a, inputs, rank)));
        Self { weight: Packed::new(map.matrix(sizes).t(), outputs, inputs), adapter }
    }

    /// The map of `rows` rows into `y`, whose rows stand `y_step` apart. `low` takes what stands between the adapter's two
    /// matrices, `[rows, r]`, scaled.
    #[expect(clippy::too_many_arguments, reason = "what a map is made of")]
    fn apply(
        &self,
        rows: usize,
        x: Matrix<'_>,
        y: &mut [f32],
        y_step: usize,
        over: Accumulate,
        scale: f32,
        low: &mut [f32],
    ) {
        let (inputs, outputs) = (self.weight.inputs(), self.weight.outputs);
        self.weight.gemm_range((rows, 0..inputs, outputs), x, y, y_step, over, 1.0);
        if let Some((first, second)) = &self.adapter {
            let rank = first.outputs;
            first.gemm_range((rows, 0..inputs, rank), x, low, rank, Accumulate::Write, scale);
            second.gemm_range((rows, 0..rank, outputs), Matrix::rows(low, rank), y, y_step, Accumulate::Add, 1.0);
        }
    }
}

/// The block's output `[N, D]`, and what its backward pass needs, from `x` `[N, D]`.
pub fn llama_forward(
    shape: LlamaShape,
    w: LlamaWeights<'_>,
    x: &[f32],
    rope: RopeAndPadding<'_>,
) -> (Vec<f32>, LlamaSaved) {
    let LlamaShape { columns, width: d, inner: f, rank, scale, .. } = shape;
    let ([q, kv], n) = (shape.widths(), shape.sequences * shape.columns);
    let row = q + 2 * kv;
    let mut y = vec![0f32; n * d];
    let new = |width: usize| PooledBuffer::new(n * width);
    let mut saved =
        LlamaSaved { scales: [new(1), new(1)], qkv: new(row), mixed: new(q), middle: new(d), gate: new(f), up: new(f) };
    let mut maps =
        w.maps.into_iter().zip(shape.linears()).map(|(map, sizes)| PackedLinear::linear_forward(map, sizes, rank));
    let maps: [PackedLinear; N_LINEAR] = std::array::from_fn(|_| maps.next().expect("seven maps"));
    let [to_q, to_k, to_v, to_out, to_gate, to_up, to_down] = &maps;

    let tokens = shape.shard() * columns;
    let LlamaSaved { scales: [scales1, scales2], qkv, mixed, middle, gate, up } = &mut saved;
    let outer = (x.par_chunks(tokens * d), y.par_chunks_mut(tokens * d));
    let scales = (scales1.par_chunks_mut(tokens), scales2.par_chunks_mut(tokens));
    let attended =
        (qkv.par_chunks_mut(tokens * row), mixed.par_chunks_mut(tokens * q), middle.par_chunks_mut(tokens * d));
    let wide = (gate.par_chunks_mut(tokens * f), up.par_chunks_mut(tokens * f));
    (outer, scales, attended, wide).into_par_iter().enumerate().for_each(
        |(shard, ((x, y), (scales1, scales2), (qkv, mixed, middle), (gate, up)))| {
            let n = x.len() / d;
            let (mut normed, mut low) = (PooledBuffer::new(n * d), PooledBuffer::new(n * rank));
            // 1. x₁ = x + attention(norm(x))
            rows::rms_norm(x, w.norms[0], shape.epsilon, &mut normed, scales1);
            let from = Matrix::rows(&normed, d);
            to_q.apply(n, from, qkv, row, Accumulate::Write, scale, &mut low);
            to_k.apply(n, from, &mut qkv[q..], row, Accumulate::Write, scale, &mut low);
            to_v.apply(n, from, &mut qkv[q + kv..], row, Accumulate::Write, scale, &mut low);
            let mut scratch = attention::AttentionScratch::new(columns);
            let sequences = qkv.chunks_mut(columns * row).zip(mixed.chunks_mut(columns * q));
            for (at, (qkv, mixed)) in (shard * shape.shard()..).zip(sequences) {
                let padding = rope.padding.map_or(0, |padding| padding[at]);
                rotate(shape, qkv, rope, padding, 1.0);
                attention::forward(shape.heads_of(padding), qkv, mixed, &mut scratch);
            }
            middle.copy_from_slice(x);
            to_out.apply(n, Matrix::rows(mixed, q), middle, d, Accumulate::Add, scale, &mut low);

            // 2. y = x₁ + mlp(norm(x₁))
            rows::rms_norm(middle, w.norms[1], shape.epsilon, &mut normed, scales2);
            let from = Matrix::rows(&normed, d);
            to_gate.apply(n, from, gate, f, Accumulate::Write, scale, &mut low);
            to_up.apply(n, from, up, f, Accumulate::Write, scale, &mut low);
            let mut activated = PooledBuffer::new(up.len());
            rows::gated(gate, up, &mut activated);
            y.copy_from_slice(middle);
            to_down.apply(n, Matrix::rows(&activated, f), y, d, Accumulate::Add, scale, &mut low);
        },
    );
    (y, saved)
}

/// The gradient of the block's input `[N, D]`, and of its parameters, from that of its output; of those matrices that are
/// `asked` for, and of all adapters.
pub fn llama_backward(
    shape: LlamaShape,
    w: LlamaWeights<'_>,
    x: &[f32],
    saved: &LlamaSaved,
    rope: RopeAndPadding<'_>,
    dy: &[f32],
    needed: [bool; N_LINEAR],
) -> (Vec<f32>, LlamaGradient) {
    let (d, n) = (shape.width, shape.sequences * shape.columns);
    let mut maps = w
        .maps
        .into_iter()
        .zip(shape.linears())
        .map(|(map, sizes)| PackedLinear::linear_backward(map, sizes, shape.rank));
    let maps: [PackedLinear; N_LINEAR] = std::array::from_fn(|_| maps.next().expect("seven maps"));
    let back = LlamaBackward { shape, w, maps: &maps, x, saved, rope, dy };
    let mut dx = vec![0f32; n * d];

    // 1. Group by group, each shard after shard.
    let shard = shape.shard() * shape.columns;
    let shards = n.div_ceil(shard);
    let group = shards.div_ceil((shards / 2).clamp(1, GROUPS)) * shard;
    let groups: Vec<LlamaGradient> = dx
        .par_chunks_mut(group * d)
        .enumerate()
        .map(|(at, dx)| {
            let mut gradient = LlamaGradient::zeros(shape, needed);
            for (i, dx) in dx.chunks_mut(shard * d).enumerate() {
                let first = at * group + i * shard;
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

impl LlamaGradient {
    fn zeros(shape: LlamaShape, needed: [bool; N_LINEAR]) -> Self {
        let (maps, rank) = (shape.linears(), shape.rank);
        Self {
            norms: std::array::from_fn(|_| vec![0.0; shape.width]),
            weights: std::array::from_fn(|i| vec![0.0; if needed[i] { maps[i][0] * maps[i][1] } else { 0 }]),
            a: std::array::from_fn(|i| vec![0.0; maps[i][0] * rank]),
            b: std::array::from_fn(|i| vec![0.0; rank * maps[i][1]]),
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Vec<f32>> {
        self.norms.iter().chain(&self.weights).chain(&self.a).chain(&self.b)
    }

    fn add(&mut self, other: &Self) {
        let parts = self.norms.iter_mut().chain(&mut self.weights).chain(&mut self.a).chain(&mut self.b);
        parts.zip(other.parts()).for_each(|(sum, x)| rows::add(x, sum));
    }
}

/// All that a backward pass reads.
struct LlamaBackward<'a> {
    shape: LlamaShape,
    w: LlamaWeights<'a>,
    maps: &'a [PackedLinear; N_LINEAR],
    x: &'a [f32],
    saved: &'a LlamaSaved,
    rope: RopeAndPadding<'a>,
    dy: &'a [f32],
}

impl LlamaBackward<'_> {
    /// Some tokens: `dx` is written, the parameters' gradients are added to.
    fn shard(&self, tokens: Range<usize>, dx: &mut [f32], g: &mut LlamaGradient) {
        let Self { shape, w, maps, saved, .. } = self;
        let LlamaShape { columns, width: d, inner: f, rank, .. } = *shape;
        let ([q, kv], n) = (shape.widths(), tokens.len());
        let row = q + 2 * kv;
        let of = |width: usize| tokens.start * width..tokens.end * width;
        let (x, dy) = (&self.x[of(d)], &self.dy[of(d)]);
        let (scales1, scales2) = (&saved.scales[0][of(1)], &saved.scales[1][of(1)]);
        let (qkv, mixed, middle) = (&saved.qkv[of(row)], &saved.mixed[of(q)], &saved.middle[of(d)]);
        let (gate, up) = (&saved.gate[of(f)], &saved.up[of(f)]);
        let new = |width: usize| PooledBuffer::new(n * width);
        let (mut normed, mut wide, mut low, mut other_low) = (new(d), new(d), new(rank), new(rank));
        let mut through = |map: usize, x: Matrix<'_>, dy: Matrix<'_>, d_input: &mut [f32], over: Accumulate| {
            let step = shape.linears()[map][0];
            maps[map].apply(n, dy, d_input, step, over, shape.scale, &mut low);
            self.parameters(map, n, x, dy, &low, &mut other_low, g);
        };

        // 1. The MLP: d_middle, which takes the residual's gradient too.
        let (mut d_gate, mut d_up, mut activated) = (new(f), new(f), new(f));
        rows::gated(gate, up, &mut activated);
        let mut d_activated = new(f);
        through(6, Matrix::rows(&activated, f), Matrix::rows(dy, d), &mut d_activated, Accumulate::Write);
        rows::gated_backward(gate, up, &d_activated, &mut d_gate, &mut d_up);
        rows::rms_normed(middle, scales2, w.norms[1], &mut normed);
        through(4, Matrix::rows(&normed, d), Matrix::rows(&d_gate, f), &mut wide, Accumulate::Write);
        through(5, Matrix::rows(&normed, d), Matrix::rows(&d_up, f), &mut wide, Accumulate::Add);
        let mut d_middle = new(d);
        d_middle.copy_from_slice(dy);
        let mut norm_gains = [vec![0f32; d], vec![0f32; d]];
        rows::rms_norm_backward(&wide, middle, scales2, w.norms[1], &mut d_middle, &mut norm_gains[1]);

        // 2. Attention: dx, which takes the residual's gradient too.
        let mut d_mixed = new(q);
        through(3, Matrix::rows(mixed, q), Matrix::rows(&d_middle, d), &mut d_mixed, Accumulate::Write);
        let (mut d_qkv, mut scratch) = (new(row), attention::AttentionScratch::new(columns));
        let sequences = qkv.chunks(columns * row).zip(d_mixed.chunks(columns * q)).zip(d_qkv.chunks_mut(columns * row));
        for (at, ((qkv, d_mixed), d_qkv)) in (tokens.start / columns..).zip(sequences) {
            let padding = self.rope.padding.map_or(0, |padding| padding[at]);
            attention::backward(shape.heads_of(padding), qkv, d_mixed, d_qkv, &mut scratch);
            rotate(*shape, d_qkv, self.rope, padding, -1.0);
        }
        rows::rms_normed(x, scales1, w.norms[0], &mut normed);
        for (map, from, over) in [(0, 0, Accumulate::Write), (1, q, Accumulate::Add), (2, q + kv, Accumulate::Add)] {
            through(map, Matrix::rows(&normed, d), Matrix::rows(&d_qkv[from..], row), &mut wide, over);
        }
        dx.copy_from_slice(&d_middle);
        rows::rms_norm_backward(&wide, x, scales1, w.norms[0], dx, &mut norm_gains[0]);
        g.norms.iter_mut().zip(&norm_gains).for_each(|(sum, x)| rows::add(x, sum));
    }

    /// Adds to the gradients of one map's parameters: `d_low` is the scaled `dy·Bᵀ`; `low` takes `x·A`.
    #[expect(clippy::too_many_arguments, reason = "what a map's gradient is made of")]
    fn parameters(
        &self,
        map: usize,
        n: usize,
        x: Matrix<'_>,
        dy: Matrix<'_>,
        d_low: &[f32],
        low: &mut [f32],
        g: &mut LlamaGradient,
    ) {
        let [inputs, outputs] = self.shape.linears()[map];
        let LlamaShape { rank, scale, .. } = self.shape;
        if !g.weights[map].is_empty() {
            product([inputs, n, outputs], &mut g.weights[map], outputs, Accumulate::Add, x.t(), dy, 1.0);
        }
        if rank > 0 {
            product([inputs, n, rank], &mut g.a[map], rank, Accumulate::Add, x.t(), Matrix::rows(d_low, rank), 1.0);
            let a = Matrix::rows(self.w.maps[map].a, rank);
            product([n, inputs, rank], low, rank, Accumulate::Write, x, a, 1.0);
            product(
                [rank, n, outputs],
                &mut g.b[map],
                outputs,
                Accumulate::Add,
                Matrix::rows(low, rank).t(),
                dy,
                scale,
            );
        }
    }
}

/// Rotates queries and keys of one sequence by their rotary angles, `sign` 1, or back, −1.
fn rotate(shape: LlamaShape, qkv: &mut [f32], rope: RopeAndPadding<'_>, padding: usize, sign: f32) {
    let ([q, kv], half) = (shape.widths(), shape.head_width / 2);
    for (column, row) in qkv.chunks_exact_mut(q + 2 * kv).enumerate() {
        let position = column.saturating_sub(padding);
        let (cos, sin) = (&rope.cos[position * half..][..half], &rope.sin[position * half..][..half]);
        rows::rotate(&mut row[..q + kv], cos, sin, sign);
    }
}
