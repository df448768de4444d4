//! Decoding with a cache: every weight packed once, then one token per sequence and step. Rows do not see each other, and
//! what a row generates does not depend on which rows are read beside it.

use crate::activation::Activation;
use crate::llama::{LinearWeights, LlamaWeights};
use crate::matrix::{Accumulate, Matrix};
use crate::product::{Packed, product};
use crate::rows;
use crate::simd::{exp, max_of, simd_dispatch};
use rayon::prelude::*;
use std::borrow::Cow;

/// A layer norm's gain and bias, or an RMS norm's gain.
#[derive(Debug, Clone)]
enum DecoderNorm {
    Layer([Vec<f32>; 2]),
    Rms(Vec<f32>),
}

impl DecoderNorm {
    fn apply(&self, x: &[f32], epsilon: f32, y: &mut [f32], statistics: &mut [f32]) {
        match self {
            Self::Layer([gain, bias]) => rows::layer_norm(x, gain, bias, epsilon, y, statistics),
            Self::Rms(gain) => rows::rms_norm(x, gain, epsilon, y, &mut statistics[..x.len() / gain.len()]),
        }
    }
}

/// `x·W`, and `+ b` where there is a bias.
#[derive(Debug, Clone)]
struct DecoderLinear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

impl DecoderLinear {
    /// `y = x·W + b`
    fn write(&self, x: &[f32], y: &mut [f32], split: bool) {
        match &self.bias {
            Some(bias) => {
                rows::fill(bias, y);
                self.weight.gemm_parallel(x, y, Accumulate::Add, split);
            }
            None => self.weight.gemm_parallel(x, y, Accumulate::Write, split),
        }
    }

    /// `y = y + x·W + b`
    fn add(&self, x: &[f32], y: &mut [f32], split: bool) {
        if let Some(bias) = &self.bias {
            rows::add_bias_to(bias, y);
        }
        self.weight.gemm_parallel(x, y, Accumulate::Add, split);
    }
}

/// A block's parameters, ready to decode with.
#[derive(Debug, Clone)]
struct PackedBlock {
    norm1: DecoderNorm,
    /// Queries, keys and values side by side, `[D, (H + 2G)·E]`.
    qkv: DecoderLinear,
    out: DecoderLinear,
    norm2: DecoderNorm,
    /// `[D, F]`; of a gated MLP the gate and what it opens side by side, `[D, 2F]`.
    up: DecoderLinear,
    down: DecoderLinear,
}

/// A block's parameters as they are packed.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "borrowed slices, made for one call")]
pub enum DecoderBlock<'a> {
    Gpt2(crate::BlockWeights<'a>),
    Llama {
        weights: LlamaWeights<'a>,
        /// Biases of queries, keys and values side by side, `[(H + 2G)·E]`; `None` where there are none.
        qkv_bias: Option<&'a [f32]>,
    },
}

/// How a decoder knows the position of a token.
#[derive(Debug, Clone)]
pub enum DecoderPositions {
    /// `[context, D]`
    Learned(Vec<f32>),
    /// `cos` and `sin` of the rotary angles, `[context, E/2]` each.
    Rotary([Vec<f32>; 2]),
}

/// The kind of a decoder's MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecoderMlp {
    Plain(Activation),
    Gated,
}

/// What a decoder is made of besides its blocks.
#[derive(Debug)]
pub struct DecoderParts<'a> {
    pub width: usize,
    /// `H`
    pub heads: usize,
    /// `G`
    pub key_value_heads: usize,
    /// `E`
    pub head_width: usize,
    pub mlp: DecoderMlp,
    pub epsilon: f32,
    /// `[V, D]`
    pub tokens: &'a [f32],
    pub positions: DecoderPositions,
    pub norm_gain: Vec<f32>,
    /// Empty under an RMS norm.
    pub norm_bias: Vec<f32>,
    /// `[D, V]`; `None` where the head is the embedding.
    pub head: Option<&'a [f32]>,
    /// Scale `α/r` of the adapters.
    pub scale: f32,
}

/// A GPT-2 or a Llama ready to decode.
#[derive(Debug, Clone)]
pub struct Decoder {
    width: usize,
    heads: usize,
    key_value_heads: usize,
    head_width: usize,
    mlp: DecoderMlp,
    epsilon: f32,
    scale: f32,
    /// `[V, D]`; empty where the head is the embedding, which then is read there.
    tokens: Vec<f32>,
    positions: DecoderPositions,
    blocks: Vec<PackedBlock>,
    norm: DecoderNorm,
    head: Packed,
}

/// Weights of a model from which on reading them costs more than what is done with them.
const LARGE: usize = 1 << 22;
/// Rows of a thread below which a large model's matrices are shared among threads, in place of its rows.
const FEW_ROWS: usize = 16;
/// Bytes of keys and values that a thread holds at most.
const CACHE: usize = 256 << 20;

impl Decoder {
    /// A model without blocks, which follow by [`Decoder::push`].
    pub fn new(parts: DecoderParts<'_>) -> Self {
        let d = parts.width;
        let vocabulary = parts.tokens.len() / d;
        let (head, tokens) = match parts.head {
            Some(head) => (Packed::new(Matrix::rows(head, vocabulary), d, vocabulary), parts.tokens.to_vec()),
            None => (Packed::new(Matrix::rows(parts.tokens, d).t(), d, vocabulary), vec![]),
        };
        let norm = match parts.norm_bias.is_empty() {
            true => DecoderNorm::Rms(parts.norm_gain),
            false => DecoderNorm::Layer([parts.norm_gain, parts.norm_bias]),
        };
        Self {
            width: d,
            heads: parts.heads,
            key_value_heads: parts.key_value_heads,
            head_width: parts.head_width,
            mlp: parts.mlp,
            epsilon: parts.epsilon,
            scale: parts.scale,
            tokens,
            positions: parts.positions,
            blocks: vec![],
            norm,
            head,
        }
    }

    /// Packs the next block; adapters are merged into their matrices.
    pub fn push(&mut self, block: &DecoderBlock<'_>) {
        let d = self.width;
        let pack = |w: &[f32], outputs: usize| Packed::new(Matrix::rows(w, outputs), w.len() / outputs, outputs);
        self.blocks.push(match block {
            DecoderBlock::Gpt2(w) => {
                let affine =
                    |w: &[f32], bias: &[f32]| DecoderLinear { weight: pack(w, bias.len()), bias: Some(bias.to_vec()) };
                PackedBlock {
                    norm1: DecoderNorm::Layer([w.norm1_gain.to_vec(), w.norm1_bias.to_vec()]),
                    qkv: affine(w.qkv, w.qkv_bias),
                    out: affine(w.out, w.out_bias),
                    norm2: DecoderNorm::Layer([w.norm2_gain.to_vec(), w.norm2_bias.to_vec()]),
                    up: affine(w.up, w.up_bias),
                    down: affine(w.down, w.down_bias),
                }
            }
            DecoderBlock::Llama { weights: w, qkv_bias } => {
                let inner = w.maps[4].weight.len() / d;
                let inputs = [d, d, d, self.heads * self.head_width, d, d, inner];
                let mut ready = w.maps.map(|map| Cow::Borrowed(map.weight));
                ready.par_iter_mut().zip(&w.maps).zip(inputs).for_each(|((ready, map), inputs)| {
                    *ready = merged(map, inputs, self.scale);
                });
                let [q, k, v, out, gate, up, down] = &ready; // [in, out] each
                let beside = |maps: &[&Cow<'_, [f32]>], bias: Option<&[f32]>| {
                    let outputs: usize = maps.iter().map(|w| w.len() / d).sum();
                    let mut joint = Vec::with_capacity(d * outputs);
                    for row in 0..d {
                        maps.iter().for_each(|w| joint.extend_from_slice(&w[row * (w.len() / d)..][..w.len() / d]));
                    }
                    DecoderLinear { weight: pack(&joint, outputs), bias: bias.map(<[f32]>::to_vec) }
                };
                let alone = |w: &[f32]| DecoderLinear { weight: pack(w, d), bias: None };
                PackedBlock {
                    norm1: DecoderNorm::Rms(w.norms[0].to_vec()),
                    qkv: beside(&[q, k, v], *qkv_bias),
                    out: alone(out),
                    norm2: DecoderNorm::Rms(w.norms[1].to_vec()),
                    up: beside(&[gate, up], None),
                    down: alone(down),
                }
            }
        });
    }

    /// How many of so many sequences of at most `capacity` columns each of `threads` threads takes at once: all of them where the
    /// weights are so large that threads had better share each matrix, and no more than `CACHE` bytes hold.
    pub fn batch_per_thread(&self, sequences: usize, capacity: usize, threads: usize) -> usize {
        let share = sequences.div_ceil(threads.max(1)).max(1);
        let all = if self.is_large() && share < FEW_ROWS { sequences.max(1) } else { share };
        let row = 2 * self.blocks.len() * capacity * self.key_value_heads * self.head_width * size_of::<f32>();
        let most = (CACHE / row.max(1)).clamp(1, all);
        sequences.max(1).div_ceil(sequences.max(1).div_ceil(most))
    }

    fn is_large(&self) -> bool {
        let of = |affine: &DecoderLinear| affine.weight.inputs() * affine.weight.outputs;
        let block = self.blocks.first().map_or(0, |b| of(&b.qkv) + of(&b.out) + of(&b.up) + of(&b.down));
        block * self.blocks.len() >= LARGE
    }

    /// Starts some sequences, padded on the left by `padding` columns each, of at most `capacity` columns.
    pub fn start(&self, padding: Vec<usize>, capacity: usize) -> Decoding<'_> {
        let size = padding.len() * capacity * self.key_value_heads * self.head_width;
        let empty = || self.blocks.iter().map(|_| vec![0f32; size]).collect();
        let split = self.is_large() && padding.len() < 2 * FEW_ROWS;
        Decoding { decoder: self, capacity, columns: 0, keys: empty(), values: empty(), padding, split }
    }

    /// Adds the embedding of a token to `x`.
    fn embed(&self, token: usize, x: &mut [f32]) {
        if self.tokens.is_empty() {
            x.iter_mut().zip(self.head.column(token)).for_each(|(x, t)| *x += t);
        } else {
            x.iter_mut().zip(&self.tokens[token * self.width..]).for_each(|(x, t)| *x += t);
        }
    }
}

/// A map's matrix `[inputs, outputs]`, with its adapter merged.
fn merged<'a>(map: &LinearWeights<'a>, inputs: usize, scale: f32) -> Cow<'a, [f32]> {
    let outputs = map.weight.len() / inputs;
    let weight: Cow<'a, [f32]> = match map.turned {
        true => {
            let columns = (0..inputs).map(|input| map.weight[input..].iter().step_by(inputs));
            let mut rows = Vec::with_capacity(map.weight.len());
            columns.for_each(|column| rows.extend(column));
            Cow::Owned(rows)
        }
        false => Cow::Borrowed(map.weight),
    };
    if map.a.is_empty() {
        return weight;
    }
    let (rank, mut weight) = (map.a.len() / inputs, weight.into_owned());
    let (a, b) = (Matrix::rows(map.a, rank), Matrix::rows(map.b, outputs));
    product([inputs, rank, outputs], &mut weight, outputs, Accumulate::Add, a, b, scale);
    Cow::Owned(weight)
}

/// Sequences being decoded, with their keys and values.
#[derive(Debug, Clone)]
pub struct Decoding<'a> {
    decoder: &'a Decoder,
    capacity: usize,
    /// Columns read.
    columns: usize,
    padding: Vec<usize>,
    /// For each block, `[B, G, E, capacity]`.
    keys: Vec<Vec<f32>>,
    /// For each block, `[B, capacity, G·E]`.
    values: Vec<Vec<f32>>,
    /// Whether threads share each product.
    split: bool,
}

impl Decoding<'_> {
    /// Reads the next columns of every sequence, ids `[B, l]`; returns the logits after the last, `[B, V]`.
    ///
    /// # Panics
    /// If the sequences grow past their capacity.
    pub fn forward(&mut self, ids: &[i32]) -> Vec<f32> {
        let model = self.decoder;
        let (d, epsilon, split) = (model.width, model.epsilon, self.split);
        let (sequences, start) = (self.padding.len(), self.columns);
        let l = ids.len() / sequences.max(1);
        assert!(start + l <= self.capacity, "the sequences grow past their capacity");

        // 1. Tokens, and positions where they are added; the padding before a sequence does not count.
        let n = sequences * l;
        let position = |at: usize, padding: &[usize]| (start + at % l).saturating_sub(padding[at / l]);
        let mut x = vec![0f32; n * d]; // [B, l, D]
        for (at, x) in x.chunks_exact_mut(d).enumerate() {
            if let DecoderPositions::Learned(table) = &model.positions {
                x.copy_from_slice(&table[position(at, &self.padding) * d..][..d]);
            }
            model.embed(ids[at] as usize, x);
        }

        // 2. Block by block.
        let (q, kv) = (model.heads * model.head_width, model.key_value_heads * model.head_width);
        let row = q + 2 * kv;
        let wide = model.blocks.first().map_or(0, |block| block.up.weight.outputs);
        let inner = model.blocks.first().map_or(0, |block| block.down.weight.inputs());
        let mut normed = vec![0f32; n * d];
        let mut statistics = vec![0f32; 2 * n];
        let mut qkv = vec![0f32; n * row];
        let mut mixed = vec![0f32; n * q];
        let mut up = vec![0f32; n * wide];
        let mut activated = vec![0f32; n * inner];
        for (layer, block) in model.blocks.iter().enumerate() {
            block.norm1.apply(&x, epsilon, &mut normed, &mut statistics);
            block.qkv.write(&normed, &mut qkv, split);
            if let DecoderPositions::Rotary([cos, sin]) = &model.positions {
                let half = model.head_width / 2;
                for (at, row) in qkv.chunks_exact_mut(row).enumerate() {
                    let from = position(at, &self.padding) * half;
                    rows::rotate(&mut row[..q + kv], &cos[from..][..half], &sin[from..][..half], 1.0);
                }
            }
            self.append_kv(layer, &qkv, l);
            self.attention(layer, &qkv, l, &mut mixed);
            block.out.add(&mixed, &mut x, split);

            block.norm2.apply(&x, epsilon, &mut normed, &mut statistics);
            block.up.write(&normed, &mut up, split);
            match model.mlp {
                DecoderMlp::Plain(activation) => rows::activation(activation, &up, &mut activated),
                DecoderMlp::Gated => {
                    for (both, activated) in up.chunks_exact(wide).zip(activated.chunks_exact_mut(inner)) {
                        let (gate, up) = both.split_at(inner);
                        rows::gated(gate, up, activated);
                    }
                }
            }
            block.down.add(&activated, &mut x, split);
        }
        self.columns += l;

        // 3. The last column's logits.
        let last: Vec<f32> = x.chunks_exact(l * d).flat_map(|row| row[(l - 1) * d..].iter().copied()).collect(); // [B, D]
        let mut normed = vec![0f32; sequences * d];
        model.norm.apply(&last, epsilon, &mut normed, &mut statistics[..2 * sequences]);
        let mut logits = vec![0f32; sequences * model.head.outputs];
        model.head.gemm_parallel(&normed, &mut logits, Accumulate::Write, split);
        logits
    }

    /// Takes some of the sequences in place of all, in any order; one may be taken several times.
    pub fn select_rows(&mut self, rows: &[usize]) {
        let size = self.capacity * self.decoder.key_value_heads * self.decoder.head_width;
        let rising = rows.windows(2).all(|pair| pair[0] < pair[1]);
        for cache in self.keys.iter_mut().chain(&mut self.values) {
            if rising {
                for (to, &from) in rows.iter().enumerate() {
                    cache.copy_within(from * size..(from + 1) * size, to * size);
                }
                cache.truncate(rows.len() * size);
            } else {
                *cache = rows.iter().flat_map(|&from| cache[from * size..][..size].iter().copied()).collect();
            }
        }
        self.padding = rows.iter().map(|&row| self.padding[row]).collect();
    }

    /// Puts the new columns' keys and values into the cache.
    fn append_kv(&mut self, layer: usize, qkv: &[f32], l: usize) {
        let (capacity, start) = (self.capacity, self.columns);
        let Decoder { heads, key_value_heads, head_width, .. } = *self.decoder;
        let (q, kv) = (heads * head_width, key_value_heads * head_width);
        let (keys, values) = (&mut self.keys[layer], &mut self.values[layer]);
        for (at, row) in qkv.chunks_exact(q + 2 * kv).enumerate() {
            let (sequence, column) = (at / l, start + at % l);
            let keys = &mut keys[sequence * capacity * kv..][..capacity * kv];
            keys[column..].iter_mut().step_by(capacity).zip(&row[q..q + kv]).for_each(|(key, x)| *key = *x);
            values[(sequence * capacity + column) * kv..][..kv].copy_from_slice(&row[q + kv..]);
        }
    }

    /// What each new column mixes from the columns up to itself, `[B, l, H·E]`.
    fn attention(&self, layer: usize, qkv: &[f32], l: usize, mixed: &mut [f32]) {
        let capacity = self.capacity;
        let Decoder { heads, key_value_heads, head_width: e, .. } = *self.decoder;
        let (q, kv) = (heads * e, key_value_heads * e);
        let one = |weights: &mut Vec<f32>, (at, mixed): (usize, &mut [f32])| {
            let (sequence, column) = (at / l, self.columns + at % l);
            let padding = self.padding[sequence];
            if column < padding {
                mixed.fill(0.0); // not attended to
                return;
            }
            let keys = &self.keys[layer][sequence * capacity * kv..][..capacity * kv];
            let values = &self.values[layer][sequence * capacity * kv..][..capacity * kv];
            let weights = &mut weights[..=column - padding];
            for head in 0..heads {
                let shared = head / (heads / key_value_heads);
                let query = &qkv[at * (q + 2 * kv) + head * e..][..e];
                let keys = &keys[shared * e * capacity + padding..];
                let mixed = &mut mixed[head * e..][..e];
                attention_of_one(query, keys, capacity, &values[padding * kv + shared * e..], kv, weights, mixed);
            }
        };
        let weights = || vec![0f32; self.columns + l];
        match self.split {
            true => mixed.par_chunks_exact_mut(q).enumerate().for_each_init(weights, one),
            false => {
                let mut weights = weights();
                mixed.chunks_exact_mut(q).enumerate().for_each(|column| one(&mut weights, column));
            }
        }
    }
}

simd_dispatch! {
    /// One query on its keys `[E, capacity]` and values, rows `step` apart.
    fn attention_of_one(
        query: &[f32],
        keys: &[f32],
        capacity: usize,
        values: &[f32],
        step: usize,
        weights: &mut [f32],
        mixed: &mut [f32],
    ) {
        let scale = 1.0 / (query.len() as f32).sqrt();
        weights.fill(0.0);
        for (i, q) in query.iter().enumerate() {
            let q = q * scale;
            weights.iter_mut().zip(&keys[i * capacity..]).for_each(|(w, key)| *w = q.mul_add(*key, *w));
        }
        let max = max_of(weights);
        let mut total = 0f32;
        for w in weights.iter_mut() {
            *w = exp(*w - max);
        }
        for w in weights.iter() {
            total += w;
        }
        mixed.fill(0.0);
        for (t, w) in weights.iter().enumerate() {
            let w = w / total;
            mixed.iter_mut().zip(&values[t * step..]).for_each(|(m, v)| *m = w.mul_add(*v, *m));
        }
    }
}

simd_dispatch! {
    /// Sums of neighbouring blocks of `block` numbers.
    pub fn sums_of_blocks(x: &[f32], block: usize) -> Vec<f64> {
        x.chunks(block).map(|block| f64::from(crate::simd::sum_of(block, |x| x))).collect()
    }
}

simd_dispatch! {
    /// `exp(logit − max)` of the tokens that are not hidden (0 of the others); returns the largest logit.
    pub fn softmax_weights(logits: &[f32], hidden: Option<&[bool]>, weights: &mut [f32]) -> f32 {
        let Some(hidden) = hidden else {
            let max = max_of(logits);
            weights.iter_mut().zip(logits).for_each(|(w, x)| *w = exp(x - max));
            return max;
        };
        for ((w, x), hidden) in weights.iter_mut().zip(logits).zip(hidden) {
            *w = if *hidden { f32::NEG_INFINITY } else { *x };
        }
        let max = max_of(weights);
        for (w, hidden) in weights.iter_mut().zip(hidden) {
            *w = if *hidden { 0.0 } else { exp(*w - max) };
        }
        max
    }
}
