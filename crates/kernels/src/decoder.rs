//! Decoding with a cache: every weight packed once, then one token per sequence and step. Rows do not see each other, and
//! what a row generates does not depend on which rows are read beside it.

use crate::block::{BlockOptions, BlockShape, BlockWeights, RopeTables};
use crate::buffer::PooledBuffer;
use crate::decoder_head::{DecoderHead, PackedHead, TokenDistributions};
use crate::frozen::FrozenMatrix;
use crate::linear_matrix::LinearMatrix;
use crate::matrix::DEPTH;
use crate::norm::NormWeights;
use crate::packed_block::{DecoderLinear, DecoderNorm, PackedBlock};
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
    /// `[D, V]`, where it is f32 turned.
    pub tokens: LinearMatrix<'a>,
    /// The token embedding is multiplied by this.
    pub embedding_multiplier: f32,
    /// A table that is added to the embedding, `[context, D]`; empty where there is none.
    pub positions: Vec<f32>,
    pub norm: NormWeights<'a>,
    pub head: DecoderHead<'a>,
}

/// Where a decoder reads the embedding of a token.
#[derive(Debug, Clone)]
enum DecoderTokens {
    /// In the head.
    Head,
    /// `[V, D]`
    Rows(Vec<f32>),
    /// `[D, V]`
    Frozen(Arc<FrozenMatrix>),
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
    tokens: DecoderTokens,
    embedding_multiplier: f32,
    positions: Vec<f32>,
    blocks: Vec<PackedBlock>,
    norm: DecoderNorm,
    head: PackedHead,
    /// Whether attention sums in the order of [`crate::block_forward`]: what differs in the last bit may otherwise be rounded to
    /// another bf16 number, and differ in all that follows.
    sums_as_training: bool,
}

/// Weights of a model from which on reading them costs more than what is done with them.
const LARGE: usize = 1 << 22;
/// Rows of a thread below which a large model's matrices are shared among threads, in place of its rows.
const FEW_ROWS: usize = 16;
/// Units of a head that are summed at a time, in registers.
const UNITS: usize = 64;
/// Bytes of keys and values that a thread holds at most.
const CACHE: usize = 256 << 20;

impl Decoder {
    /// A model without blocks, which follow by [`Decoder::push`].
    pub fn new(parts: DecoderParts<'_>) -> Self {
        let d = parts.width;
        let vocabulary = parts.tokens.len() / d;
        let tokens = match (parts.head.matrix, parts.tokens) {
            (None, _) => DecoderTokens::Head,
            (_, LinearMatrix::F32 { values, .. }) => DecoderTokens::Rows(values.to_vec()),
            (_, LinearMatrix::Frozen(matrix)) => DecoderTokens::Frozen(matrix.clone()),
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
            head: PackedHead::new(parts.head, parts.tokens, [d, vocabulary]),
            sums_as_training: matches!(parts.tokens, LinearMatrix::Frozen(_)),
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

    /// How many of so many sequences, of at most `capacity` columns, each of `threads` threads takes, and how many places it reads
    /// them in. One takes all where the weights are so large that threads had better share each matrix; there are no more places
    /// than `CACHE` bytes hold.
    pub fn sequences_and_places(&self, sequences: usize, capacity: usize, threads: usize) -> [usize; 2] {
        let share = sequences.div_ceil(threads.max(1)).max(1);
        let share = if self.is_large() && share < FEW_ROWS { sequences.max(1) } else { share };
        let place = 2 * self.blocks.len() * capacity * self.key_value_heads * self.head_width * size_of::<f32>();
        [share, (CACHE / place.max(1)).clamp(1, share)]
    }

    fn is_large(&self) -> bool {
        let linears = |b: &PackedBlock| [&b.qkv, &b.out, &b.up, &b.down].map(DecoderLinear::numbers).iter().sum();
        let block: usize = self.blocks.first().map_or(0, linears);
        block * self.blocks.len() >= LARGE
    }

    /// Starts with so many empty places, each for a sequence of at most `capacity` columns.
    pub fn start(&self, places: usize, capacity: usize) -> Decoding<'_> {
        let size = places * capacity * self.key_value_heads * self.head_width;
        let empty = || self.blocks.iter().map(|_| vec![0f32; size]).collect();
        let split = self.is_large() && places < 2 * FEW_ROWS;
        Decoding { decoder: self, capacity, columns: vec![0; places], keys: empty(), values: empty(), split }
    }

    /// Adds the embedding of a token to `x`.
    fn embed(&self, token: usize, x: &mut [f32]) {
        let factor = self.embedding_multiplier;
        match &self.tokens {
            DecoderTokens::Head => self.head.add_column(token, factor, x),
            DecoderTokens::Rows(rows) => {
                x.iter_mut().zip(&rows[token * self.width..]).for_each(|(x, t)| *x += factor * t);
            }
            DecoderTokens::Frozen(matrix) => matrix.add_column(token, factor, x),
        }
    }
}

/// Places of sequences being decoded, with their keys and values.
#[derive(Debug, Clone)]
pub struct Decoding<'a> {
    decoder: &'a Decoder,
    capacity: usize,
    /// Columns read, for each place.
    columns: Vec<usize>,
    /// For each block, `[places, G, E, capacity]`.
    keys: Vec<Vec<f32>>,
    /// For each block, `[places, capacity, G·E]`.
    values: Vec<Vec<f32>>,
    /// Whether threads share each product.
    split: bool,
}

/// What the sequence in a place reads next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextTokens {
    pub place: usize,
    pub ids: Vec<i32>,
}

/// Where a new token is.
#[derive(Debug, Clone, Copy)]
struct TokenPosition {
    place: usize,
    column: usize,
}

impl<'a> Decoding<'a> {
    /// Reads the next tokens in some places, one or more in each; returns the distributions of the token after the last of each.
    /// Those that are `hidden` `[V]` from one have no probability there.
    ///
    /// # Panics
    /// If a sequence grows past its capacity.
    pub fn forward<'b>(&mut self, next: &[NextTokens], hidden: Vec<Option<&'b [bool]>>) -> TokenDistributions<'b>
    where
        'a: 'b,
    {
        let model = self.decoder;
        let (d, epsilon, split) = (model.width, model.epsilon, self.split);

        // 1. Tokens, and positions where they are added.
        let mut at = vec![];
        for NextTokens { place, ids } in next {
            let start = self.columns[*place];
            assert!(start + ids.len() <= self.capacity, "a sequence grows past its capacity");
            at.extend((start..start + ids.len()).map(|column| TokenPosition { place: *place, column }));
        }
        let n = at.len();
        let mut x = PooledBuffer::new(n * d); // [N, D]
        x.fill(0.0);
        for ((x, at), id) in x.chunks_exact_mut(d).zip(&at).zip(next.iter().flat_map(|next| &next.ids)) {
            if !model.positions.is_empty() {
                x.copy_from_slice(&model.positions[at.column * d..][..d]);
            }
            model.embed(*id as usize, x);
        }

        // 2. Block by block.
        let (q, kv) = (model.heads * model.head_width, model.key_value_heads * model.head_width);
        let row = q + 2 * kv;
        let wide = model.blocks.first().map_or(0, PackedBlock::wide);
        let [mut normed, mut qkv, mut mixed, mut up, mut activated] =
            [d, row, q, wide, model.inner].map(|width| PooledBuffer::new(n * width));
        let mut statistics = vec![0f32; 2 * n];
        let (mut added, mut branch) = (vec![], vec![]);
        for (layer, block) in model.blocks.iter().enumerate() {
            block.norms[0].apply(&x, epsilon, &mut normed, &mut statistics);
            block.qkv.write(n, &normed, &mut qkv, split);
            self.norm_and_rotate(block, &mut qkv, &at);
            self.append_kv(layer, &qkv, &at);
            self.attention(layer, &qkv, &at, &mut mixed);
            if block.options.parallel {
                block.norms[1].apply(&x, epsilon, &mut normed, &mut statistics);
            }
            block.add_normed(0, &mixed, &mut x, [&mut added, &mut branch, &mut statistics], epsilon, split);
            if !block.options.parallel {
                block.norms[1].apply(&x, epsilon, &mut normed, &mut statistics);
            }
            block.up.write(n, &normed, &mut up, split);
            model.shape(block.options).activate(&up, &mut activated);
            block.add_normed(1, &activated, &mut x, [&mut added, &mut branch, &mut statistics], epsilon, split);
        }
        next.iter().for_each(|next| self.columns[next.place] += next.ids.len());

        // 3. What follows the last tokens.
        let ends = next.iter().scan(0, |end, next| {
            *end += next.ids.len();
            Some(*end)
        });
        let last: Vec<f32> = ends.flat_map(|end| x[(end - 1) * d..end * d].iter().copied()).collect(); // [places, D]
        let mut normed = vec![0f32; last.len()];
        model.norm.apply(&last, epsilon, &mut normed, &mut statistics[..2 * next.len()]);
        model.head.distributions(normed, hidden, split)
    }

    /// The sequence of one place goes on in another too.
    pub fn copy(&mut self, from: usize, to: usize) {
        let size = self.capacity * self.decoder.key_value_heads * self.decoder.head_width;
        for cache in self.keys.iter_mut().chain(&mut self.values) {
            cache.copy_within(from * size..(from + 1) * size, to * size);
        }
        self.columns[to] = self.columns[from];
    }

    /// Leaves so many columns of the sequence in a place.
    pub fn truncate(&mut self, place: usize, columns: usize) {
        self.columns[place] = self.columns[place].min(columns);
    }

    /// Norms and rotates queries and keys of the new columns.
    fn norm_and_rotate(&self, block: &PackedBlock, qkv: &mut [f32], at: &[TokenPosition]) {
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
            for (row, at) in qkv.chunks_exact_mut(q + 2 * kv).zip(at) {
                let [cos, sin] = rope.at(at.column);
                rows::rotate(&mut row[..q + kv], e, cos, sin, 1.0);
            }
        }
    }

    /// Puts the new columns' keys and values into the cache.
    fn append_kv(&mut self, layer: usize, qkv: &[f32], at: &[TokenPosition]) {
        let capacity = self.capacity;
        let Decoder { heads, key_value_heads, head_width, .. } = *self.decoder;
        let (q, kv) = (heads * head_width, key_value_heads * head_width);
        let (keys, values) = (&mut self.keys[layer], &mut self.values[layer]);
        for (row, &TokenPosition { place, column }) in qkv.chunks_exact(q + 2 * kv).zip(at) {
            let keys = &mut keys[place * capacity * kv..][..capacity * kv];
            keys[column..].iter_mut().step_by(capacity).zip(&row[q..q + kv]).for_each(|(key, x)| *key = *x);
            values[(place * capacity + column) * kv..][..kv].copy_from_slice(&row[q + kv..]);
        }
    }

    /// What each new token mixes from the columns up to itself, `[N, H·E]`.
    fn attention(&self, layer: usize, qkv: &[f32], at: &[TokenPosition], mixed: &mut [f32]) {
        let capacity = self.capacity;
        let Decoder { heads, key_value_heads, head_width: e, sums_as_training, .. } = *self.decoder;
        let (q, kv) = (heads * e, key_value_heads * e);
        let one = |weights: &mut Vec<f32>, (index, mixed): (usize, &mut [f32])| {
            let TokenPosition { place, column } = at[index];
            let keys = &self.keys[layer][place * capacity * kv..][..capacity * kv];
            let values = &self.values[layer][place * capacity * kv..][..capacity * kv];
            let scores = self.decoder.blocks[layer].options.scores;
            let (first, scale) = (scores.first_key(column, 0), scores.factor(e));
            let weights = &mut weights[..=column - first];
            for head in 0..heads {
                let shared = head / (heads / key_value_heads);
                let query = &qkv[index * (q + 2 * kv) + head * e..][..e];
                let keys = &keys[shared * e * capacity + first..];
                let mixed = &mut mixed[head * e..][..e];
                let scales = if sums_as_training { [1.0, scale] } else { [scale, 1.0] };
                scores_of_one(query, keys, capacity, scales, weights);
                if let Some(cap) = scores.soft_cap {
                    rows::soft_cap(weights, cap);
                }
                let values = &values[first * kv + shared * e..];
                match sums_as_training {
                    true => mixed_in_parts(
                        values,
                        kv,
                        weights,
                        DEPTH - (first - scores.first_of_block(column)) % DEPTH,
                        mixed,
                    ),
                    false => mixed_of_one(values, kv, weights, mixed),
                }
            }
        };
        let weights = || vec![0f32; at.iter().map(|at| at.column + 1).max().unwrap_or(0)];
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
    /// Scores of one query on its keys `[E, capacity]`, scaled before and after they are summed.
    fn scores_of_one(query: &[f32], keys: &[f32], capacity: usize, scales: [f32; 2], weights: &mut [f32]) {
        weights.fill(0.0);
        for (i, q) in query.iter().enumerate() {
            let q = q * scales[0];
            weights.iter_mut().zip(&keys[i * capacity..]).for_each(|(w, key)| *w = q.mul_add(*key, *w));
        }
        weights.iter_mut().for_each(|w| *w *= scales[1]);
    }
}

/// `exp(score − max)`, and their sum.
#[inline(always)]
fn exp_and_total(weights: &mut [f32]) -> f32 {
    let max = max_of(weights);
    let mut total = 0f32;
    for w in weights.iter_mut() {
        *w = exp(*w - max);
    }
    for w in weights.iter() {
        total += w;
    }
    total
}

simd_dispatch! {
    /// What the softmax of scores mixes of values, rows `step` apart.
    fn mixed_of_one(values: &[f32], step: usize, weights: &mut [f32], mixed: &mut [f32]) {
        let total = exp_and_total(weights);
        mixed.fill(0.0);
        for (t, w) in weights.iter().enumerate() {
            let w = w / total;
            mixed.iter_mut().zip(&values[t * step..]).for_each(|(m, v)| *m = w.mul_add(*v, *m));
        }
    }
}

simd_dispatch! {
    /// As [`mixed_of_one`], with sums over the first `part` keys and then over [`DEPTH`] keys at a time.
    fn mixed_in_parts(values: &[f32], step: usize, weights: &mut [f32], part: usize, mixed: &mut [f32]) {
        let scale = 1.0 / exp_and_total(weights);
        weights.iter_mut().for_each(|w| *w *= scale);
        let (whole, rest) = mixed.as_chunks_mut::<UNITS>();
        let first_of_rest = whole.len() * UNITS;
        for (index, mixed) in whole.iter_mut().enumerate() {
            sums_in_parts(&values[index * UNITS..], step, weights, part, mixed);
        }
        for (unit, mixed) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            sums_in_parts(&values[first_of_rest + unit..], step, weights, part, mixed);
        }
    }
}

/// What weights mix of so many units of values, rows `step` apart.
#[inline(always)]
fn sums_in_parts<const N: usize>(values: &[f32], step: usize, weights: &[f32], part: usize, mixed: &mut [f32; N]) {
    mixed.fill(0.0);
    let mut start = 0;
    while start < weights.len() {
        let end = weights.len().min(if start == 0 { part } else { start + DEPTH });
        let mut sums = [0f32; N];
        for (w, values) in weights[start..end].iter().zip(values[start * step..].chunks(step)) {
            sums.iter_mut().zip(values).for_each(|(sum, v)| *sum = w.mul_add(*v, *sum));
        }
        mixed.iter_mut().zip(sums).for_each(|(m, sum)| *m += sum);
        start = end;
    }
}
