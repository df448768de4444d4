//! A pre-norm GPT-2 block as one operation: `x₁ = x + attention(norm(x))`, `y = x₁ + mlp(norm(x₁))`.

use crate::activation::Activation;
use crate::attention::{AttentionShape, HeadOrder, ScoreOptions};
use crate::attention_batch;
use crate::block::{BlockMlp, BlockOptions, BlockWeights};
use crate::buffer::PooledBuffer;
use crate::linear::LinearWeights;
use crate::matrix::{Accumulate, Matrix};
use crate::norm::NormWeights;
use crate::product::{Packed, product};
use crate::rows;
use rayon::prelude::*;

/// Sizes of a block and of its batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpt2Shape {
    /// Sequences, `B`.
    pub sequences: usize,
    /// `L`
    pub columns: usize,
    /// `D`
    pub width: usize,
    pub heads: usize,
    /// `F`
    pub inner: usize,
    pub activation: Activation,
    pub epsilon: f32,
}

/// Defines a block's parameters and their gradients from one list, whose order is that of arrays of them.
macro_rules! gpt2_parameters {
    ($count:literal: $($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A block's parameters. Matrices are `[inputs, outputs]`.
        #[derive(Debug, Clone, Copy)]
        pub struct Gpt2Weights<'a> {
            $($(#[$doc])* pub $name: &'a [f32],)*
        }

        impl<'a> From<[&'a [f32]; $count]> for Gpt2Weights<'a> {
            /// From the parameters in the order of the fields.
            fn from([$($name),*]: [&'a [f32]; $count]) -> Self {
                Self { $($name),* }
            }
        }

        /// Gradients in the shapes of [`Gpt2Weights`].
        #[derive(Debug, Clone, Default)]
        pub struct Gpt2Gradient {
            $(pub $name: Vec<f32>,)*
        }

        impl Gpt2Gradient {
            /// In the order of the fields.
            pub fn into_parts(self) -> [Vec<f32>; $count] {
                [$(self.$name),*]
            }
        }
    };
}

gpt2_parameters! {
    12:
    norm1_gain,
    norm1_bias,
    /// Queries, keys and values, `[D, 3D]`.
    qkv,
    qkv_bias,
    out,
    out_bias,
    norm2_gain,
    norm2_bias,
    up,
    up_bias,
    down,
    down_bias,
}

impl Gpt2Weights<'_> {
    /// How [`block_forward`](crate::block_forward) computes the same block.
    pub fn options(activation: Activation) -> BlockOptions {
        BlockOptions { joint_qkv: true, mlp: BlockMlp::Plain, activation, ..BlockOptions::default() }
    }
}

impl<'a> From<Gpt2Weights<'a>> for BlockWeights<'a> {
    fn from(w: Gpt2Weights<'a>) -> Self {
        let (norm, none) = (|gain, bias| NormWeights { gain, bias }, NormWeights::default());
        let map = |matrix: &'a [f32], bias| LinearWeights { matrix: matrix.into(), bias, ..LinearWeights::default() };
        let (qkv, out, up, down) =
            (map(w.qkv, w.qkv_bias), map(w.out, w.out_bias), map(w.up, w.up_bias), map(w.down, w.down_bias));
        let no_map = LinearWeights::default();
        BlockWeights {
            norms: [norm(w.norm1_gain, w.norm1_bias), norm(w.norm2_gain, w.norm2_bias), none, none, none, none],
            maps: [qkv, no_map, no_map, out, no_map, up, down],
        }
    }
}

/// What the forward pass leaves for the backward pass: `11·D` numbers per token with `F = 4·D`.
#[derive(Debug, Clone)]
pub struct Gpt2Saved {
    /// Mean and 1/sd of both norms' rows, `[N, 2]` each.
    moments1: PooledBuffer,
    moments2: PooledBuffer,
    /// What the norms gave, `[N, D]`.
    normed1: PooledBuffer,
    normed2: PooledBuffer,
    /// `[N, 3D]`
    qkv: PooledBuffer,
    /// What attention mixed, before its projection, `[N, D]`.
    mixed: PooledBuffer,
    /// After attention, `[N, D]`.
    middle: PooledBuffer,
    /// Before the activation, `[N, F]`.
    up: PooledBuffer,
}

impl Gpt2Gradient {
    /// Zeros in the shapes of the matrices and their biases; the norms' gradients are still empty.
    fn zeros(w: Gpt2Weights<'_>) -> Self {
        let zeros = |of: &[f32]| vec![0.0; of.len()];
        Self {
            qkv: zeros(w.qkv),
            qkv_bias: zeros(w.qkv_bias),
            out: zeros(w.out),
            out_bias: zeros(w.out_bias),
            up: zeros(w.up),
            up_bias: zeros(w.up_bias),
            down: zeros(w.down),
            down_bias: zeros(w.down_bias),
            ..Self::default()
        }
    }
}

/// Tokens of a shard: at least, and at most.
const SHARD: [usize; 2] = [64, 128];
/// Shards that a batch is cut into where it is neither small nor large.
const SHARDS: usize = 16;

impl Gpt2Shape {
    fn tokens(self) -> usize {
        self.sequences * self.columns
    }

    /// Sequences of a shard.
    fn shard(self) -> usize {
        let [least, most] = SHARD.map(|tokens| (tokens / self.columns).max(1));
        self.sequences.div_ceil(SHARDS).clamp(least, most)
    }

    fn attention(self) -> AttentionShape {
        let Self { columns, heads, width, .. } = self;
        let (order, scores) = (HeadOrder::ByKind, ScoreOptions::default());
        AttentionShape { columns, heads, key_value_heads: heads, order, scores, width: width / heads, padding: 0 }
    }

    /// Padding of the sequences of each shard.
    fn paddings(self, padding: Option<&[usize]>) -> Vec<Vec<usize>> {
        let all: Vec<usize> = padding.map_or_else(|| vec![0; self.sequences], <[usize]>::to_vec);
        all.chunks(self.shard()).map(<[usize]>::to_vec).collect()
    }
}

/// A weight `[inputs, outputs]`, ready for the forward pass.
fn pack_forward(w: &[f32], outputs: usize) -> Packed {
    Packed::new(Matrix::rows(w, outputs), w.len() / outputs, outputs)
}

/// A weight `[inputs, outputs]`, turned for the backward pass.
fn pack_backward(w: &[f32], outputs: usize) -> Packed {
    Packed::new(Matrix::rows(w, outputs).t(), outputs, w.len() / outputs)
}

/// The block's output `[N, D]`, and what its backward pass needs.
///
/// # Shapes
/// `x`: `[N, D]`; `padding`: columns of padding before each sequence's first token, `[B]`. What is in padded columns
/// is not attended to.
pub fn gpt2_forward(
    shape: Gpt2Shape,
    w: Gpt2Weights<'_>,
    x: &[f32],
    padding: Option<&[usize]>,
) -> (Vec<f32>, Gpt2Saved) {
    let (n, d, f) = (shape.tokens(), shape.width, shape.inner);
    let mut y = vec![0f32; n * d];
    let new = |width: usize| PooledBuffer::new(n * width);
    let mut saved = Gpt2Saved {
        moments1: new(2),
        moments2: new(2),
        normed1: new(d),
        normed2: new(d),
        qkv: new(3 * d),
        mixed: new(d),
        middle: new(d),
        up: new(f),
    };
    let tokens = shape.shard() * shape.columns;
    let (to_qkv, to_out, to_up, to_down) =
        (pack_forward(w.qkv, 3 * d), pack_forward(w.out, d), pack_forward(w.up, f), pack_forward(w.down, d));
    let Gpt2Saved { moments1, moments2, normed1, normed2, qkv, mixed, middle, up } = &mut saved;
    let shards = (x.par_chunks(tokens * d), y.par_chunks_mut(tokens * d), shape.paddings(padding).into_par_iter());
    let norms = (moments1.par_chunks_mut(2 * tokens), normed1.par_chunks_mut(tokens * d));
    let more_norms = (moments2.par_chunks_mut(2 * tokens), normed2.par_chunks_mut(tokens * d));
    let inner = (
        qkv.par_chunks_mut(3 * tokens * d),
        mixed.par_chunks_mut(tokens * d),
        middle.par_chunks_mut(tokens * d),
        up.par_chunks_mut(tokens * f),
    );
    (shards, norms, more_norms, inner).into_par_iter().for_each(
        |((x, y, padding), (moments1, normed1), (moments2, normed2), (qkv, mixed, middle, up))| {
            // 1. x₁ = x + attention(norm(x))
            rows::layer_norm(x, w.norm1_gain, w.norm1_bias, shape.epsilon, normed1, moments1);
            rows::fill(w.qkv_bias, qkv, 3 * d);
            to_qkv.product(normed1, qkv, Accumulate::Add);
            attention_batch::forward(shape.attention(), &padding, qkv, mixed);
            rows::add_bias(x, w.out_bias, middle);
            to_out.product(mixed, middle, Accumulate::Add);

            // 2. y = x₁ + mlp(norm(x₁))
            rows::layer_norm(middle, w.norm2_gain, w.norm2_bias, shape.epsilon, normed2, moments2);
            rows::fill(w.up_bias, up, f);
            to_up.product(normed2, up, Accumulate::Add);
            let mut activated = PooledBuffer::new(up.len());
            rows::activation(shape.activation, up, &mut activated);
            rows::add_bias(middle, w.down_bias, y);
            to_down.product(&activated, y, Accumulate::Add);
        },
    );
    (y, saved)
}

/// The gradient of the block's input `[N, D]`, and of its parameters, from that of its output.
pub fn gpt2_backward(
    shape: Gpt2Shape,
    w: Gpt2Weights<'_>,
    x: &[f32],
    saved: &Gpt2Saved,
    padding: Option<&[usize]>,
    dy: &[f32],
) -> (Vec<f32>, Gpt2Gradient) {
    let (n, d, f) = (shape.tokens(), shape.width, shape.inner);
    let mut dx = vec![0f32; n * d];
    let new = |width: usize| PooledBuffer::new(n * width);
    let (mut activated, mut d_up, mut d_middle, mut d_qkv) = (new(f), new(f), new(d), new(3 * d));
    let per = shape.shard() * shape.columns;
    let (from_qkv, from_out, from_up, from_down) =
        (pack_backward(w.qkv, 3 * d), pack_backward(w.out, d), pack_backward(w.up, f), pack_backward(w.down, d));

    // 1. Shard by shard, back through the MLP and attention; the norms' parameters are summed within the shard.
    let outer = (x.par_chunks(per * d), dy.par_chunks(per * d), dx.par_chunks_mut(per * d));
    let paddings = shape.paddings(padding).into_par_iter();
    let norms = (saved.moments1.par_chunks(2 * per), saved.moments2.par_chunks(2 * per), paddings);
    let saved_parts =
        (saved.qkv.par_chunks(3 * per * d), saved.middle.par_chunks(per * d), saved.up.par_chunks(per * f));
    let buffers = (
        activated.par_chunks_mut(per * f),
        d_up.par_chunks_mut(per * f),
        d_middle.par_chunks_mut(per * d),
        d_qkv.par_chunks_mut(3 * per * d),
    );
    let norm_parts: Vec<[Vec<f32>; 4]> = (outer, norms, saved_parts, buffers)
        .into_par_iter()
        .map(|((x, dy, dx), (moments1, moments2, padding), (qkv, middle, up), (activated, d_up, d_middle, d_qkv))| {
            let mut parts: [Vec<f32>; 4] = std::array::from_fn(|_| vec![0.0; d]);
            let [gain1, bias1, gain2, bias2] = &mut parts;
            let mut wide = PooledBuffer::new(x.len()); // a gradient after a norm, or before a projection

            from_down.product(dy, d_up, Accumulate::Write);
            rows::activation_backward(shape.activation, up, d_up, activated);
            from_up.product(d_up, &mut wide, Accumulate::Write);
            d_middle.copy_from_slice(dy);
            rows::layer_norm_backward(&wide, middle, moments2, w.norm2_gain, d_middle, gain2, bias2);

            from_out.product(d_middle, &mut wide, Accumulate::Write);
            attention_batch::backward(shape.attention(), &padding, qkv, &wide, d_qkv);
            from_qkv.product(d_qkv, &mut wide, Accumulate::Write);
            dx.copy_from_slice(d_middle);
            rows::layer_norm_backward(&wide, x, moments1, w.norm1_gain, dx, gain1, bias1);
            parts
        })
        .collect();

    // 2. The matrices, each a product over all tokens, cut into panels of columns.
    let mut gradient = Gpt2Gradient::zeros(w);
    let g = &mut gradient;
    weight_gradients(vec![
        (&saved.normed1, &d_qkv, &mut g.qkv, &mut g.qkv_bias),
        (&saved.mixed, &d_middle, &mut g.out, &mut g.out_bias),
        (&saved.normed2, &d_up, &mut g.up, &mut g.up_bias),
        (&activated, dy, &mut g.down, &mut g.down_bias),
    ]);
    let sums = |which| sum_over_shards(&norm_parts, which, d);
    (g.norm1_gain, g.norm1_bias, g.norm2_gain, g.norm2_bias) = (sums(0), sums(1), sums(2), sums(3));
    (dx, gradient)
}

/// The sum over shards of one of the norms' four gradients, `[D]`.
fn sum_over_shards(norm_parts: &[[Vec<f32>; 4]], which: usize, width: usize) -> Vec<f32> {
    norm_parts.iter().fold(vec![0f32; width], |mut sum, parts| {
        rows::add(&parts[which], &mut sum);
        sum
    })
}

/// An affine map's input and output gradient over all tokens, then its matrix's and its bias's gradient.
type LinearBackwardBuffers<'a> = (&'a [f32], &'a [f32], &'a mut Vec<f32>, &'a mut Vec<f32>);

/// `xᵀ·dy` and the column sums of `dy`, for several maps at once: one task a panel of rows of the matrix.
fn weight_gradients(maps: Vec<LinearBackwardBuffers<'_>>) {
    const PANEL: usize = 256;
    rayon::scope(|scope| {
        for (x, dy, matrix, bias) in maps {
            let outputs = bias.len();
            let (inputs, tokens) = (matrix.len() / outputs, dy.len() / outputs);
            for (panel, rows) in matrix.chunks_mut(PANEL * outputs).enumerate() {
                scope.spawn(move |_| {
                    let x = Matrix::rows(&x[panel * PANEL..], inputs).t(); // [rows, N]
                    let shape = [rows.len() / outputs, tokens, outputs];
                    product(shape, rows, outputs, Accumulate::Write, x, Matrix::rows(dy, outputs), 1.0);
                });
            }
            scope.spawn(move |_| rows::add_column_sums(dy, outputs, bias));
        }
    });
}
