//! Decoding with a cache: every weight packed once, then one token per sequence and step. Rows do not see each other, and
//! what a row generates does not depend on which rows are read beside it.

use crate::block::{BlockOptions, BlockShape, BlockWeights, RopeTables};
use crate::matrix::Matrix;
use crate::norm::NormWeights;
use crate::packed_block::{DecoderLinear, DecoderNorm, PackedBlock};
use crate::product::Packed;
use crate::rows;
use crate::simd::{exp, max_of, simd_dispatch};
use rayon::prelude::*;
use std::sync::Arc;

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
    /// `F`
    pub inner: usize,
    pub epsilon: f32,
    /// `[V, D]`
    pub tokens: &'a [f32],
    /// The token embedding is multiplied by this.
    pub embedding_multiplier: f32,
    /// A table that is added to the embedding, `[context, D]`; empty where there is none.
    pub positions: Vec<f32>,
    pub norm: NormWeights<'a>,
    pub head: DecoderHead<'a>,
}

/// What makes logits of hidden states.
#[derive(Debug, Clone, Copy)]
pub struct DecoderHead<'a> {
    /// `[D, V]`; `None` where it is the embedding.
    pub weight: Option<&'a [f32]>,
    /// `[V]`; empty where there is none.
    pub bias: &'a [f32],
    /// Logits are multiplied by this.
    pub multiplier: f32,
    /// `cap·tanh(logit/cap)`
    pub soft_cap: Option<f32>,
}

impl Default for DecoderHead<'_> {
    fn default() -> Self {
        Self { weight: None, bias: &[], multiplier: 1.0, soft_cap: None }
    }
}

/// A model ready to decode.
#[derive(Debug, Clone)]
pub struct Decoder {
    width: usize,
    heads: usize,
    key_value_heads: usize,
    head_width: usize,
    inner: usize,
    epsilon: f32,
    /// `[V, D]`; empty where the head is the embedding, which then is read there.
    tokens: Vec<f32>,
    embedding_multiplier: f32,
    positions: Vec<f32>,
    blocks: Vec<PackedBlock>,
    norm: DecoderNorm,
    head: DecoderLinear,
    logit_multiplier: f32,
    logit_soft_cap: Option<f32>,
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
        let DecoderHead { weight, bias, multiplier, soft_cap } = parts.head;
        let (weight, tokens) = match weight {
            Some(head) => (Packed::new(Matrix::rows(head, vocabulary), d, vocabulary), parts.tokens.to_vec()),
            None => (Packed::new(Matrix::rows(parts.tokens, d).t(), d, vocabulary), vec![]),
        };
        Self {
            width: d,
            heads: parts.heads,
            key_value_heads: parts.key_value_heads,
            head_width: parts.head_width,
            inner: parts.inner,
            epsilon: parts.epsilon,
            tokens,
            embedding_multiplier: parts.embedding_multiplier,
            positions: parts.positions,
            blocks: vec![],
            norm: DecoderNorm::new(parts.norm),
            head: DecoderLinear { weight, bias: (!bias.is_empty()).then(|| bias.to_vec()) },
            logit_multiplier: multiplier,
            logit_soft_cap: soft_cap,
        }
    }

    /// The shape of a block.
    fn shape(&self, options: BlockOptions) -> BlockShape {
        let &Self { width, heads, key_value_heads, head_width, inner, epsilon, .. } = self;
        BlockShape { sequences: 0, columns: 0, width, heads, key_value_heads, head_width, inner, epsilon, options }
    }

    /// Packs the next block, whose queries and keys `rope` rotates; adapters are merged into their matrices.
    pub fn push(&mut self, options: BlockOptions, weights: &BlockWeights<'_>, rope: Option<Arc<RopeTables>>) {
        self.blocks.push(PackedBlock::new(self.shape(options), weights, rope));
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

    /// Logits `[B, V]` of normed states `[B, D]`.
    fn logits(&self, normed: &[f32], split: bool) -> Vec<f32> {
        let mut logits = vec![0f32; normed.len() / self.width * self.head.weight.outputs];
        self.head.write(normed, &mut logits, split);
        if self.logit_multiplier != 1.0 {
            logits.iter_mut().for_each(|logit| *logit *= self.logit_multiplier);
        }
        if let Some(cap) = self.logit_soft_cap {
            rows::soft_cap(&mut logits, cap);
        }
        logits
    }

    /// Adds the embedding of a token to `x`.
    fn embed(&self, token: usize, x: &mut [f32]) {
        if self.tokens.is_empty() {
            x.iter_mut().zip(self.head.weight.column(token)).for_each(|(x, t)| *x += self.embedding_multiplier * t);
        } else {
            let row = &self.tokens[token * self.width..];
            x.iter_mut().zip(row).for_each(|(x, t)| *x += self.embedding_multiplier * t);
        }
    }
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

        // 1. Tokens, and positions where they are added.
        let n = sequences * l;
        let mut x = vec![0f32; n * d]; // [B, l, D]
        for (index, x) in x.chunks_exact_mut(d).enumerate() {
            if !model.positions.is_empty() {
                x.copy_from_slice(&model.positions[self.position(index, l) * d..][..d]);
            }
            model.embed(ids[index] as usize, x);
        }

        // 2. Block by block.
        let (q, kv) = (model.heads * model.head_width, model.key_value_heads * model.head_width);
        let row = q + 2 * kv;
        let wide = model.blocks.first().map_or(0, PackedBlock::wide);
        let mut normed = vec![0f32; n * d];
        let mut statistics = vec![0f32; 2 * n];
        let mut qkv = vec![0f32; n * row];
        let mut mixed = vec![0f32; n * q];
        let mut up = vec![0f32; n * wide];
        let mut activated = vec![0f32; n * model.inner];
        let (mut added, mut branch) = (vec![], vec![]);
        for (layer, block) in model.blocks.iter().enumerate() {
            block.norms[0].apply(&x, epsilon, &mut normed, &mut statistics);
            block.qkv.write(&normed, &mut qkv, split);
            self.norm_and_rotate(block, &mut qkv, l);
            self.append_kv(layer, &qkv, l);
            self.attention(layer, &qkv, l, &mut mixed);
            if block.options.parallel {
                block.norms[1].apply(&x, epsilon, &mut normed, &mut statistics);
            }
            block.add_normed(0, &mixed, &mut x, [&mut added, &mut branch, &mut statistics], epsilon, split);
            if !block.options.parallel {
                block.norms[1].apply(&x, epsilon, &mut normed, &mut statistics);
            }
            block.up.write(&normed, &mut up, split);
            model.shape(block.options).activate(&up, &mut activated);
            block.add_normed(1, &activated, &mut x, [&mut added, &mut branch, &mut statistics], epsilon, split);
        }
        self.columns += l;

        // 3. The last column's logits.
        let last: Vec<f32> = x.chunks_exact(l * d).flat_map(|row| row[(l - 1) * d..].iter().copied()).collect(); // [B, D]
        let mut normed = vec![0f32; sequences * d];
        model.norm.apply(&last, epsilon, &mut normed, &mut statistics[..2 * sequences]);
        model.logits(&normed, split)
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

    /// The position of a new column: the padding before a sequence does not count.
    fn position(&self, index: usize, l: usize) -> usize {
        (self.columns + index % l).saturating_sub(self.padding[index / l])
    }

    /// Norms and rotates queries and keys of the new columns.
    fn norm_and_rotate(&self, block: &PackedBlock, qkv: &mut [f32], l: usize) {
        let Decoder { heads, key_value_heads, head_width: e, epsilon, .. } = *self.decoder;
        let (q, kv) = (heads * e, key_value_heads * e);
        for (which, from, width) in [(4, 0, q), (5, q, kv)] {
            let norm = &block.norms[which];
            if norm.weights().is_none() {
                continue;
            }
            let (mut normed, mut statistics) = (vec![0f32; width], vec![0f32; 2 * heads]);
            for row in qkv.chunks_exact_mut(q + 2 * kv) {
                let row = &mut row[from..from + width];
                norm.apply(row, epsilon, &mut normed, &mut statistics);
                row.copy_from_slice(&normed);
            }
        }
        if let Some(rope) = &block.rope {
            for (index, row) in qkv.chunks_exact_mut(q + 2 * kv).enumerate() {
                let [cos, sin] = rope.at(self.position(index, l));
                rows::rotate(&mut row[..q + kv], e, cos, sin, 1.0);
            }
        }
    }

    /// Puts the new columns' keys and values into the cache.
    fn append_kv(&mut self, layer: usize, qkv: &[f32], l: usize) {
        let (capacity, start) = (self.capacity, self.columns);
        let Decoder { heads, key_value_heads, head_width, .. } = *self.decoder;
        let (q, kv) = (heads * head_width, key_value_heads * head_width);
        let (keys, values) = (&mut self.keys[layer], &mut self.values[layer]);
        for (index, row) in qkv.chunks_exact(q + 2 * kv).enumerate() {
            let (sequence, column) = (index / l, start + index % l);
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
        let one = |weights: &mut Vec<f32>, (index, mixed): (usize, &mut [f32])| {
            let (sequence, column) = (index / l, self.columns + index % l);
            let padding = self.padding[sequence];
            if column < padding {
                mixed.fill(0.0); // not attended to
                return;
            }
            let keys = &self.keys[layer][sequence * capacity * kv..][..capacity * kv];
            let values = &self.values[layer][sequence * capacity * kv..][..capacity * kv];
            let scores = self.decoder.blocks[layer].options.scores;
            let (first, scale) = (scores.first_key(column, padding), scores.factor(e));
            let weights = &mut weights[..=column - first];
            for head in 0..heads {
                let shared = head / (heads / key_value_heads);
                let query = &qkv[index * (q + 2 * kv) + head * e..][..e];
                let keys = &keys[shared * e * capacity + first..];
                let mixed = &mut mixed[head * e..][..e];
                scores_of_one(query, keys, capacity, scale, weights);
                if let Some(cap) = scores.soft_cap {
                    rows::soft_cap(weights, cap);
                }
                mixed_of_one(&values[first * kv + shared * e..], kv, weights, mixed);
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
    /// Scores of one query on its keys `[E, capacity]`.
    fn scores_of_one(query: &[f32], keys: &[f32], capacity: usize, scale: f32, weights: &mut [f32]) {
        weights.fill(0.0);
        for (i, q) in query.iter().enumerate() {
            let q = q * scale;
            weights.iter_mut().zip(&keys[i * capacity..]).for_each(|(w, key)| *w = q.mul_add(*key, *w));
        }
    }
}

simd_dispatch! {
    /// What the softmax of scores mixes of values, rows `step` apart.
    fn mixed_of_one(values: &[f32], step: usize, weights: &mut [f32], mixed: &mut [f32]) {
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
