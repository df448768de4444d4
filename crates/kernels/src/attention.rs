//! Causal attention of one sequence, all heads: no `[L, L]` matrix outlives its head, and the half that nobody may see
//! is not worked on. Backward makes the weights again from queries and keys.
//!
//! Weights stand transposed, a row a key and a lane a query, so that a softmax runs down the rows and never across lanes.

use crate::buffer::PooledBuffer;
use crate::matrix::{Accumulate, Matrix};
use crate::product::Packed;
use crate::rows;
use crate::simd::{LANES, exp, simd_dispatch};

/// Queries worked on at a time.
const QUERIES: usize = 32;

/// How scores are made of queries and keys.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ScoreOptions {
    /// Keys that a query sees at most, its own included, at least 1; `None`: all up to its own.
    pub window: Option<usize>,
    /// Factor of the scores; `None`: 1/√E.
    pub scale: Option<f32>,
    /// `cap·tanh(score/cap)`
    pub soft_cap: Option<f32>,
}

impl ScoreOptions {
    /// The factor of scores of heads of so many units.
    pub fn factor(self, width: usize) -> f32 {
        self.scale.unwrap_or(1.0 / (width as f32).sqrt())
    }

    /// The first column that the query of `column` sees.
    pub fn first_key(self, column: usize, padding: usize) -> usize {
        self.window.map_or(padding, |window| padding.max((column + 1).saturating_sub(window)))
    }

    /// The first key that is read for the query of `column` together with its neighbours, where nothing is padded.
    pub(crate) fn first_of_block(self, column: usize) -> usize {
        self.first_key(column / QUERIES * QUERIES, 0)
    }
}

/// How a row of queries, keys and values is ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HeadOrder {
    /// All heads' queries, then all heads' keys, then all heads' values.
    #[default]
    ByKind,
    /// Queries, keys and values of one head after those of another, as GPT-NeoX has them; `G = H`.
    ByHead,
}

/// Sizes of one sequence. Its numbers stand in rows of `(H + 2G)·E`. A head of keys and values serves `H/G` neighbouring
/// heads of queries.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    pub columns: usize,
    /// `H`
    pub heads: usize,
    /// `G`
    pub key_value_heads: usize,
    pub order: HeadOrder,
    pub scores: ScoreOptions,
    /// `E`
    pub width: usize,
    /// Columns of padding before the first token.
    pub padding: usize,
}

/// A block of queries.
#[derive(Debug, Clone, Copy)]
struct QueryBlock {
    start: usize,
    end: usize,
    /// The first key that its first query sees.
    first: usize,
    /// Numbers between the rows of its weights: whole vectors.
    step: usize,
}

impl QueryBlock {
    /// Keys that its queries see together.
    fn seen(self) -> usize {
        self.end - self.first
    }
}

impl AttentionShape {
    /// Width of what is mixed.
    fn d(self) -> usize {
        self.heads * self.width
    }

    /// Numbers of a row of queries, keys and values.
    fn row(self) -> usize {
        (self.heads + 2 * self.key_value_heads) * self.width
    }

    /// Numbers of a row of queries, keys and values, and of a row of what is mixed.
    pub(crate) fn steps(self) -> [usize; 2] {
        [self.row(), self.d()]
    }

    /// Where in a row `which` (0 queries, 1 keys, 2 values) of one head of queries stands.
    pub fn at(self, head: usize, which: usize) -> usize {
        let shared = head / (self.heads / self.key_value_heads);
        let place = match (self.order, which) {
            (HeadOrder::ByHead, which) => 3 * head + which,
            (HeadOrder::ByKind, 0) => head,
            (HeadOrder::ByKind, 1) => self.heads + shared,
            (HeadOrder::ByKind, _) => self.heads + self.key_value_heads + shared,
        };
        place * self.width
    }

    fn blocks(self) -> impl Iterator<Item = QueryBlock> {
        (self.padding..self.columns).step_by(QUERIES).map(move |start| {
            let end = (start + QUERIES).min(self.columns);
            let first = self.scores.first_key(start, self.padding);
            QueryBlock { start, end, first, step: (end - start).next_multiple_of(LANES) }
        })
    }

    /// What stands at `which` (0 queries, 1 keys, 2 values) of one head, from column `from` on: `[L − from, E]`.
    fn part<'a>(self, qkv: &'a [f32], head: usize, which: usize, from: usize) -> Matrix<'a> {
        Matrix::rows(&qkv[from * self.row() + self.at(head, which)..], self.row())
    }

    /// The softmax weights of a block of queries, `[seen, queries]`; 0 on keys that a query does not see. `queries` is
    /// working memory; `slopes` takes those of the soft cap, where it is not empty.
    fn weights(
        self,
        qkv: &[f32],
        head: usize,
        block: QueryBlock,
        queries: &mut Packed,
        weights: &mut [f32],
        slopes: &mut [f32],
    ) {
        let (e, count, before) = (self.width, block.end - block.start, block.start - block.first);
        queries.fill(self.part(qkv, head, 0, block.start).t(), e, count);
        let (keys, scale) = (self.part(qkv, head, 1, block.first), self.scores.factor(e));
        queries.gemm_range((block.seen(), 0..e, count), keys, weights, block.step, Accumulate::Write, scale);
        if let Some(cap) = self.scores.soft_cap {
            rows::soft_cap(weights, cap);
            rows::soft_cap_slopes(weights, cap, slopes);
        }
        if let Some(window) = self.scores.window {
            hide_before_window(weights, block.step, before, window);
        }
        causal_softmax(weights, block.step, before);
    }
}

/// What the passes work in, made once for many sequences.
#[derive(Debug)]
pub struct AttentionScratch {
    weights: PooledBuffer,
    gradient: PooledBuffer,
    slopes: PooledBuffer,
    packed: [Packed; 4],
}

impl AttentionScratch {
    /// For sequences of so many columns.
    pub fn new(columns: usize) -> Self {
        let block = || PooledBuffer::new(QUERIES * columns);
        Self { weights: block(), gradient: block(), slopes: block(), packed: std::array::from_fn(|_| Packed::empty()) }
    }
}

simd_dispatch! {
    /// −∞ where lane q of row k is a key before the last `window` ones up to `seen + q`.
    fn hide_before_window(rows: &mut [f32], step: usize, seen: usize, window: usize) {
        let before = (seen + step).saturating_sub(window);
        for (key, row) in rows.chunks_exact_mut(step).enumerate().take(before) {
            for (lane, x) in row.iter_mut().enumerate() {
                *x = if key + window <= seen + lane { f32::NEG_INFINITY } else { *x };
            }
        }
    }
}

simd_dispatch! {
    /// Lane q of every row becomes the softmax of the first `seen + q + 1` rows' lanes q, and 0 in later rows. Rows are
    /// `step` long, whole vectors.
    fn causal_softmax(rows: &mut [f32], step: usize, seen: usize) {
        for lanes in (0..step).step_by(LANES) {
            let vectors = (lanes..rows.len()).step_by(step);
            let mut max = [f32::NEG_INFINITY; LANES];
            for (key, offset) in vectors.clone().enumerate() {
                let row: &mut [f32; LANES] = (&mut rows[offset..offset + LANES]).try_into().expect("a vector");
                if key > seen + lanes {
                    for (lane, x) in row.iter_mut().enumerate() {
                        *x = if key > seen + lanes + lane { f32::NEG_INFINITY } else { *x };
                    }
                }
                for (max, x) in max.iter_mut().zip(row) {
                    *max = if *x > *max { *x } else { *max };
                }
            }
            let mut sums = [0f32; LANES];
            for offset in vectors.clone() {
                let row: &mut [f32; LANES] = (&mut rows[offset..offset + LANES]).try_into().expect("a vector");
                for ((x, max), sum) in row.iter_mut().zip(&max).zip(&mut sums) {
                    *x = exp(*x - max);
                    *sum += *x;
                }
            }
            let scale = sums.map(|sum| 1.0 / sum);
            for offset in vectors {
                rows[offset..offset + LANES].iter_mut().zip(&scale).for_each(|(x, scale)| *x *= scale);
            }
        }
    }
}

simd_dispatch! {
    /// `dS = P ∘ (dP − Σ dP∘P)`, summed down the rows, in place of `dP`. Rows are `step` long, whole vectors.
    fn softmax_backward(weights: &[f32], gradient: &mut [f32], step: usize) {
        for lanes in (0..step).step_by(LANES) {
            let mut sums = [0f32; LANES];
            for offset in (lanes..weights.len()).step_by(step) {
                let (p, g) = (&weights[offset..offset + LANES], &gradient[offset..offset + LANES]);
                sums.iter_mut().zip(p).zip(g).for_each(|((sum, p), g)| *sum += p * g);
            }
            for offset in (lanes..weights.len()).step_by(step) {
                let (p, g) = (&weights[offset..offset + LANES], &mut gradient[offset..offset + LANES]);
                g.iter_mut().zip(p).zip(&sums).for_each(|((g, p), sum)| *g = p * (*g - sum));
            }
        }
    }
}

/// `mixed`: `[L, H·E]`; rows of padding become 0.
pub fn forward(heads: AttentionShape, qkv: &[f32], mixed: &mut [f32], scratch: &mut AttentionScratch) {
    let (d, e, padding) = (heads.d(), heads.width, heads.padding);
    mixed[..padding * d].fill(0.0);
    let AttentionScratch { weights, packed: [queries_t, values, ..], .. } = scratch;
    for head in 0..heads.heads {
        values.fill(heads.part(qkv, head, 2, padding), heads.columns - padding, e);
        for block in heads.blocks() {
            let weights = &mut weights[..block.seen() * block.step];
            heads.weights(qkv, head, block, queries_t, weights, &mut []);
            let mixed = &mut mixed[block.start * d + head * e..];
            let weights = Matrix::rows(weights, block.step).t(); // [queries, seen]
            let seen = block.first - padding..block.end - padding;
            values.gemm_range((block.end - block.start, seen, e), weights, mixed, d, Accumulate::Write, 1.0);
        }
    }
}

/// `d_qkv` `[L, (H + 2G)·E]` from `d_mixed` `[L, H·E]`.
pub fn backward(
    heads: AttentionShape,
    qkv: &[f32],
    d_mixed: &[f32],
    d_qkv: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let (d, e, step, padding) = (heads.d(), heads.width, heads.row(), heads.padding);
    let (count, scale) = (heads.columns - padding, heads.scores.factor(e));
    d_qkv.fill(0.0); // keys and values take what every block of queries adds
    let AttentionScratch { weights, gradient, slopes, packed: [turned, keys, queries, d_head] } = scratch;
    for head in 0..heads.heads {
        let d_mixed = |from: usize| Matrix::rows(&d_mixed[from * d + head * e..], d); // [L − from, E]
        keys.fill(heads.part(qkv, head, 1, padding), count, e);
        queries.fill(heads.part(qkv, head, 0, padding), count, e);
        d_head.fill(d_mixed(padding), count, e);
        let offset = |which: usize, row: usize| row * step + heads.at(head, which);
        for block in heads.blocks() {
            let QueryBlock { start, end, first, step: lanes } = block;
            let (rows, within) = (end - start, start - padding..end - padding);
            let (seen, keys_within) = (block.seen(), first - padding..end - padding);
            let (weights, gradient) = (&mut weights[..seen * lanes], &mut gradient[..seen * lanes]);
            let slopes = &mut slopes[..if heads.scores.soft_cap.is_some() { seen * lanes } else { 0 }];
            heads.weights(qkv, head, block, turned, weights, slopes);
            let weights_t = Matrix::rows(weights, lanes); // [seen, queries]
            d_head.gemm_range(
                (seen, within.clone(), e),
                weights_t,
                &mut d_qkv[offset(2, first)..],
                step,
                Accumulate::Add,
                1.0,
            );
            turned.fill(d_mixed(start).t(), e, rows);
            turned.gemm_range(
                (seen, 0..e, rows),
                heads.part(qkv, head, 2, first),
                gradient,
                lanes,
                Accumulate::Write,
                1.0,
            );
            softmax_backward(weights, gradient, lanes);
            rows::multiply(slopes, gradient);
            let gradient_t = Matrix::rows(gradient, lanes); // [seen, queries]
            keys.gemm_range(
                (rows, keys_within, e),
                gradient_t.t(),
                &mut d_qkv[offset(0, start)..],
                step,
                Accumulate::Write,
                scale,
            );
            queries.gemm_range(
                (seen, within, e),
                gradient_t,
                &mut d_qkv[offset(1, first)..],
                step,
                Accumulate::Add,
                scale,
            );
        }
    }
}
