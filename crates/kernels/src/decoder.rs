//! Decoding with a cache: every weight packed once, then one token a sequence and step. Rows do not see each other, and
//! what a row says does not depend on which rows are read beside it.

use crate::block::Activation;
use crate::buffer::Buffer;
use crate::matrix::Matrix;
use crate::rows;
use crate::simd::{exp, max_of, widest};

/// Columns of a panel: two registers of AVX-512.
const PANEL: usize = 32;

/// A matrix `[K, N]` cut into panels of columns, each contiguous, for products with few rows.
#[derive(Debug, Clone)]
struct Packed {
    panels: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Packed {
    fn new(from: Matrix<'_>, inputs: usize, outputs: usize) -> Self {
        let mut panels = vec![0f32; inputs * outputs.div_ceil(PANEL) * PANEL];
        for (panel, to) in panels.chunks_exact_mut(inputs * PANEL).enumerate() {
            let columns = panel * PANEL..outputs.min((panel + 1) * PANEL);
            for (row, to) in to.chunks_exact_mut(PANEL).enumerate() {
                for (to, column) in to.iter_mut().zip(columns.clone()) {
                    *to = from.values[row * from.row_step + column * from.column_step];
                }
            }
        }
        Self { panels, inputs, outputs }
    }

    /// `y = x·w + y`, `x` `[rows, K]`, `y` `[rows, N]`: eight rows at a time, one or two left over alone, more of them
    /// as eight. Every entry is summed in the order of the inputs, whatever stands beside it.
    fn add_to(&self, x: &[f32], y: &mut [f32]) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        let rows = x.len() / inputs;
        let tiles = if rows % ROWS > 2 { rows.div_ceil(ROWS) } else { rows / ROWS };
        let in_tiles = rows.min(tiles * ROWS);
        let (x_tiles, x_rest) = x.split_at(in_tiles * inputs);
        let (y_tiles, y_rest) = y.split_at_mut(in_tiles * outputs);
        let mut turned = Buffer::new(tiles * ROWS * inputs);
        turn(x_tiles, inputs, &mut turned);
        for (panel, w) in self.panels.chunks_exact(inputs * PANEL).enumerate() {
            let from = panel * PANEL;
            let width = PANEL.min(outputs - from);
            let w = w.as_chunks::<PANEL>().0;
            let add = |y: &mut [f32], sums: &[f32; PANEL]| {
                y[from..][..width].iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
            };
            for (x, y) in turned.chunks_exact(ROWS * inputs).zip(y_tiles.chunks_mut(ROWS * outputs)) {
                let sums = tile::<ROWS>(x.as_chunks().0, w);
                y.chunks_exact_mut(outputs).zip(&sums).for_each(|(y, sums)| add(y, sums));
            }
            for (x, y) in x_rest.chunks_exact(inputs).zip(y_rest.chunks_exact_mut(outputs)) {
                add(y, &tile::<1>(x.as_chunks().0, w)[0]);
            }
        }
    }
}

/// Rows of a tile.
const ROWS: usize = 8;

/// Every eight rows `[8, K]` become `[K, 8]`; rows that are not there are 0.
fn turn(x: &[f32], inputs: usize, turned: &mut [f32]) {
    for (x, turned) in x.chunks(ROWS * inputs).zip(turned.chunks_exact_mut(ROWS * inputs)) {
        if x.len() < turned.len() {
            turned.fill(0.0);
        }
        for (row, x) in x.chunks_exact(inputs).enumerate() {
            turned[row..].iter_mut().step_by(ROWS).zip(x).for_each(|(to, x)| *to = *x);
        }
    }
}

/// `M` rows of the product on one panel: `x` is `[K, M]`, `w` `[K, PANEL]`.
fn tile<const M: usize>(x: &[[f32; M]], w: &[[f32; PANEL]]) -> [[f32; PANEL]; M] {
    #[cfg(target_arch = "x86_64")]
    if crate::simd::level() == 4 {
        #[expect(unsafe_code, reason = "`level` asked the processor for AVX-512")]
        // SAFETY: as the reason says.
        return unsafe { tile_v4(x, w) };
    }
    let mut sums = [[0f32; PANEL]; M];
    for (x, w) in x.iter().zip(w) {
        for (sums, x) in sums.iter_mut().zip(x) {
            sums.iter_mut().zip(w).for_each(|(sum, w)| *sum = x.mul_add(*w, *sum));
        }
    }
    sums
}

/// The same, its sums in registers: left to itself the compiler makes vectors of the rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[expect(unsafe_code, reason = "loads and stores of whole registers")]
fn tile_v4<const M: usize>(x: &[[f32; M]], w: &[[f32; PANEL]]) -> [[f32; PANEL]; M] {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for (x, w) in x.iter().zip(w) {
        // SAFETY: a row of a panel is two registers long.
        let w = unsafe { [_mm512_loadu_ps(w.as_ptr()), _mm512_loadu_ps(w.as_ptr().add(16))] };
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = _mm512_set1_ps(*x);
            *sums = [_mm512_fmadd_ps(x, w[0], sums[0]), _mm512_fmadd_ps(x, w[1], sums[1])];
        }
    }
    let mut out = [[0f32; PANEL]; M];
    for (out, sums) in out.iter_mut().zip(&sums) {
        // SAFETY: as above.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
        }
    }
    out
}

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
            block.qkv.add_to(&normed, &mut qkv);
            self.remember(layer, &qkv, l);
            self.attend(layer, &qkv, l, &mut mixed);
            rows::add_bias_to(&block.out_bias, &mut x);
            block.out.add_to(&mixed, &mut x);

            rows::layer_norm(&x, &block.norm2[0], &block.norm2[1], epsilon, &mut normed, &mut kept);
            rows::fill(&block.up_bias, &mut up);
            block.up.add_to(&normed, &mut up);
            rows::bend(activation, &up, &mut bent);
            rows::add_bias_to(&block.down_bias, &mut x);
            block.down.add_to(&bent, &mut x);
        }
        self.columns += l;

        // 3. The last column's logits.
        let last: Vec<f32> = x.chunks_exact(l * d).flat_map(|row| row[(l - 1) * d..].iter().copied()).collect(); // [B, D]
        let mut normed = vec![0f32; sequences * d];
        rows::layer_norm(&last, &model.norm[0], &model.norm[1], epsilon, &mut normed, &mut kept[..2 * sequences]);
        let mut logits = vec![0f32; sequences * model.head.outputs];
        model.head.add_to(&normed, &mut logits);
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
