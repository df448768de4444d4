//! Decoding with a cache: every weight packed once, then one token a sequence and step. Rows do not see each other, and
//! what a row says does not depend on which rows are read beside it.

use crate::block::Activation;
use crate::matrix::{Matrix, Over, Packed};
use crate::rows;
use crate::simd::{exp, max_of, widest};

/// A block's parameters, ready to decode with.
#[derive(Debug, Clone)]
struct PackedBlock {
    norm1: [Vec<f32>; 2],
    qkv: Packed,
    qkv_bias: Vec<f32>,
    out: Packed,
    out_bias: Vec<f32>,
    norm2: [Vec<f32>; 2],
    up: Packed,
    up_bias: Vec<f32>,
    down: Packed,
    down_bias: Vec<f32>,
}

/// A GPT-2 ready to decode.
#[derive(Debug, Clone)]
pub struct Decoder {
    width: usize,
    heads: usize,
    activation: Activation,
    epsilon: f32,
    /// `[V, D]`
    tokens: Vec<f32>,
    /// `[context, D]`
    positions: Vec<f32>,
    blocks: Vec<PackedBlock>,
    norm: [Vec<f32>; 2],
    head: Packed,
}

/// What a decoder is made of besides its blocks.
#[derive(Debug, Clone, Copy)]
pub struct DecoderParts<'a> {
    pub width: usize,
    pub heads: usize,
    pub activation: Activation,
    pub epsilon: f32,
    /// `[V, D]`
    pub tokens: &'a [f32],
    /// `[context, D]`
    pub positions: &'a [f32],
    pub norm_gain: &'a [f32],
    pub norm_bias: &'a [f32],
    /// `[D, V]`; `None` where the head is the embedding.
    pub head: Option<&'a [f32]>,
}

impl Decoder {
    /// Packs the weights of a model.
    pub fn new(parts: DecoderParts<'_>, blocks: &[crate::BlockWeights<'_>]) -> Self {
        let d = parts.width;
        let vocabulary = parts.tokens.len() / d;
        let pack = |w: &[f32], outputs: usize| Packed::new(Matrix::rows(w, outputs), w.len() / outputs, outputs);
        Self {
            width: d,
            heads: parts.heads,
            activation: parts.activation,
            epsilon: parts.epsilon,
            tokens: parts.tokens.to_vec(),
            positions: parts.positions.to_vec(),
            blocks: blocks
                .iter()
                .map(|w| PackedBlock {
                    norm1: [w.norm1_gain.to_vec(), w.norm1_bias.to_vec()],
                    qkv: pack(w.qkv, 3 * d),
                    qkv_bias: w.qkv_bias.to_vec(),
                    out: pack(w.out, d),
                    out_bias: w.out_bias.to_vec(),
                    norm2: [w.norm2_gain.to_vec(), w.norm2_bias.to_vec()],
                    up: pack(w.up, w.up_bias.len()),
                    up_bias: w.up_bias.to_vec(),
                    down: pack(w.down, d),
                    down_bias: w.down_bias.to_vec(),
                })
                .collect(),
            norm: [parts.norm_gain.to_vec(), parts.norm_bias.to_vec()],
            head: match parts.head {
                Some(head) => pack(head, vocabulary),
                None => Packed::new(Matrix::rows(parts.tokens, d).t(), d, vocabulary),
            },
        }
    }

    /// Starts some sequences, padded on the left by `left` columns each, of at most `capacity` columns.
    pub fn start(&self, left: Vec<usize>, capacity: usize) -> Decoding<'_> {
        let size = left.len() * capacity * self.width;
        let empty = || self.blocks.iter().map(|_| vec![0f32; size]).collect();
        Decoding { decoder: self, capacity, columns: 0, keys: empty(), values: empty(), left }
    }
}

/// Sequences being decoded, with their keys and values.
#[derive(Debug, Clone)]
pub struct Decoding<'a> {
    decoder: &'a Decoder,
    capacity: usize,
    /// Columns read.
    columns: usize,
    left: Vec<usize>,
    /// For each block, `[B, H, E, capacity]`.
    keys: Vec<Vec<f32>>,
    /// For each block, `[B, capacity, D]`.
    values: Vec<Vec<f32>>,
}

impl Decoding<'_> {
    /// Reads the next columns of every sequence, ids `[B, l]`; returns the logits after the last, `[B, V]`.
    ///
    /// # Panics
    /// If the sequences grow past their capacity.
    pub fn read(&mut self, ids: &[i32]) -> Vec<f32> {
        let Decoder { width: d, activation, epsilon, .. } = *self.decoder;
        let model = self.decoder;
        let (sequences, start) = (self.left.len(), self.columns);
        let l = ids.len() / sequences.max(1);
        assert!(start + l <= self.capacity, "the sequences grow past their capacity");

        // 1. Tokens and positions; the padding before a sequence does not count.
        let n = sequences * l;
        let mut x = vec![0f32; n * d]; // [B, l, D]
        for (at, x) in x.chunks_exact_mut(d).enumerate() {
            let position = (start + at % l).saturating_sub(self.left[at / l]);
            let token = &model.tokens[ids[at] as usize * d..][..d];
            let position = &model.positions[position * d..][..d];
            x.iter_mut().zip(token).zip(position).for_each(|((x, t), p)| *x = t + p);
        }

        // 2. Block by block.
        let inner = model.blocks.first().map_or(0, |block| block.up_bias.len());
        let mut normed = vec![0f32; n * d];
        let mut kept = vec![0f32; 2 * n];
        let mut qkv = vec![0f32; 3 * n * d];
        let mut mixed = vec![0f32; n * d];
        let mut up = vec![0f32; n * inner];
        let mut bent = vec![0f32; n * inner];
        for (layer, block) in model.blocks.iter().enumerate() {
            rows::layer_norm(&x, &block.norm1[0], &block.norm1[1], epsilon, &mut normed, &mut kept);
            rows::fill(&block.qkv_bias, &mut qkv);
            block.qkv.product(&normed, &mut qkv, Over::Add);
            self.remember(layer, &qkv, l);
            self.attend(layer, &qkv, l, &mut mixed);
            rows::add_bias_to(&block.out_bias, &mut x);
            block.out.product(&mixed, &mut x, Over::Add);

            rows::layer_norm(&x, &block.norm2[0], &block.norm2[1], epsilon, &mut normed, &mut kept);
            rows::fill(&block.up_bias, &mut up);
            block.up.product(&normed, &mut up, Over::Add);
            rows::bend(activation, &up, &mut bent);
            rows::add_bias_to(&block.down_bias, &mut x);
            block.down.product(&bent, &mut x, Over::Add);
        }
        self.columns += l;

        // 3. The last column's logits.
        let last: Vec<f32> = x.chunks_exact(l * d).flat_map(|row| row[(l - 1) * d..].iter().copied()).collect(); // [B, D]
        let mut normed = vec![0f32; sequences * d];
        rows::layer_norm(&last, &model.norm[0], &model.norm[1], epsilon, &mut normed, &mut kept[..2 * sequences]);
        let mut logits = vec![0f32; sequences * model.head.outputs];
        model.head.product(&normed, &mut logits, Over::Add);
        logits
    }

    /// Keeps some of the sequences, in rising order.
    pub fn keep(&mut self, places: &[usize]) {
        let size = self.capacity * self.decoder.width;
        for cache in self.keys.iter_mut().chain(&mut self.values) {
            for (to, &from) in places.iter().enumerate() {
                cache.copy_within(from * size..(from + 1) * size, to * size);
            }
            cache.truncate(places.len() * size);
        }
        self.left = places.iter().map(|&place| self.left[place]).collect();
    }

    /// Puts the new columns' keys and values into the cache.
    fn remember(&mut self, layer: usize, qkv: &[f32], l: usize) {
        let (d, capacity, start) = (self.decoder.width, self.capacity, self.columns);
        let (keys, values) = (&mut self.keys[layer], &mut self.values[layer]);
        for (at, row) in qkv.chunks_exact(3 * d).enumerate() {
            let (sequence, column) = (at / l, start + at % l);
            let keys = &mut keys[sequence * capacity * d..][..capacity * d];
            keys[column..].iter_mut().step_by(capacity).zip(&row[d..2 * d]).for_each(|(key, x)| *key = *x);
            values[(sequence * capacity + column) * d..][..d].copy_from_slice(&row[2 * d..]);
        }
    }

    /// What each new column mixes from the columns up to itself, `[B, l, D]`.
    fn attend(&self, layer: usize, qkv: &[f32], l: usize, mixed: &mut [f32]) {
        let (d, capacity) = (self.decoder.width, self.capacity);
        let e = d / self.decoder.heads;
        let mut weights = vec![0f32; self.columns + l];
        for (at, mixed) in mixed.chunks_exact_mut(d).enumerate() {
            let (sequence, column) = (at / l, self.columns + at % l);
            let left = self.left[sequence];
            if column < left {
                mixed.fill(0.0); // nobody sees it
                continue;
            }
            let keys = &self.keys[layer][sequence * capacity * d..][..capacity * d];
            let values = &self.values[layer][sequence * capacity * d..][..capacity * d];
            let weights = &mut weights[..=column - left];
            for head in 0..self.decoder.heads {
                let query = &qkv[at * 3 * d + head * e..][..e];
                let keys = &keys[head * e * capacity + left..];
                let mixed = &mut mixed[head * e..][..e];
                attend_one(query, keys, capacity, &values[left * d + head * e..], d, weights, mixed);
            }
        }
    }
}

widest! {
    /// One query on its keys `[E, capacity]` and values, rows `step` apart.
    fn attend_one(
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

widest! {
    /// Sums of neighbouring blocks of `block` numbers.
    pub fn sums_of_blocks(x: &[f32], block: usize) -> Vec<f64> {
        x.chunks(block).map(|block| f64::from(crate::simd::sum_of(block, |x| x))).collect()
    }
}

widest! {
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
