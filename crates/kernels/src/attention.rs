//! Causal attention of one sequence, all heads: no `[L, L]` matrix outlives its head, and the half that nobody may see
//! is not worked on. Backward makes the weights again from queries and keys.
//!
//! Weights stand transposed, a row a key and a lane a query, so that a softmax runs down the rows and never across lanes.

use crate::buffer::PooledBuffer;
use crate::matrix::{Accumulate, Matrix};
use crate::product::Packed;
use crate::simd::{LANES, exp, simd_dispatch};

/// Queries worked on at a time.
const QUERIES: usize = 32;

/// Sizes of one sequence. Its numbers stand in rows of `(H + 2G)·E`: queries, keys, values, each head after head. A head of
/// keys and values serves `H/G` neighbouring heads of queries.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    pub columns: usize,
    /// `H`
    pub heads: usize,
    /// `G`
    pub key_value_heads: usize,
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
    /// Keys that its last query sees.
    seen: usize,
    /// Numbers between the rows of its weights: whole vectors.
    step: usize,
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

    /// Where in a row `which` (0 queries, 1 keys, 2 values) of one head of queries stands.
    fn at(self, head: usize, which: usize) -> usize {
        let shared = head / (self.heads / self.key_value_heads);
        let place = match which {
            0 => head,
            1 => self.heads + shared,
            _ => self.heads + self.key_value_heads + shared,
        };
        place * self.width
    }

    fn blocks(self) -> impl Iterator<Item = QueryBlock> {
        (self.padding..self.columns).step_by(QUERIES).map(move |start| {
            let end = (start + QUERIES).min(self.columns);
            QueryBlock { start, end, seen: end - self.padding, step: (end - start).next_multiple_of(LANES) }
        })
    }

    /// What stands at `which` (0 queries, 1 keys, 2 values) of one head, from column `from` on: `[L − from, E]`.
    fn part<'a>(self, qkv: &'a [f32], head: usize, which: usize, from: usize) -> Matrix<'a> {
        Matrix::rows(&qkv[from * self.row() + self.at(head, which)..], self.row())
    }

    /// The softmax weights of a block of queries, `[seen, queries]`; 0 on later keys. `queries` is working memory.
    fn weights(self, qkv: &[f32], head: usize, block: QueryBlock, queries: &mut Packed, weights: &mut [f32]) {
        let (e, count) = (self.width, block.end - block.start);
        let scale = 1.0 / (e as f32).sqrt();
        queries.fill(self.part(qkv, head, 0, block.start).t(), e, count);
        let keys = self.part(qkv, head, 1, self.padding);
        queries.gemm_range((block.seen, 0..e, count), keys, weights, block.step, Accumulate::Write, scale);
        causal_softmax(weights, block.step, block.start - self.padding);
    }
}

/// What the passes work in, made once for many sequences.
#[derive(Debug)]
pub struct AttentionScratch {
    weights: PooledBuffer,
    gradient: PooledBuffer,
    packed: [Packed; 4],
}

impl AttentionScratch {
    /// For sequences of so many columns.
    pub fn new(columns: usize) -> Self {
        let block = || PooledBuffer::new(QUERIES * columns);
        Self { weights: block(), gradient: block(), packed: std::array::from_fn(|_| Packed::empty()) }
    }
}

simd_dispatch! {
    /// Lane q of every row becomes the softmax of the first `seen + q + 1` rows' lanes q, and 0 in later rows. Rows are
    /// `step` long, whole vectors.
    fn causal_softmax(rows: &mut [f32], step: usize, seen: usize) {
        for lanes in (0..step).step_by(LANES) {
            let vectors = (lanes..rows.len()).step_by(step);
            let mut max = [f32::NEG_INFINITY; LANES];
            for (key, at) in vectors.clone().enumerate() {
                let row: &mut [f32; LANES] = (&mut rows[at..at + LANES]).try_into().expect("a vector");
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
            for at in vectors.clone() {
                let row: &mut [f32; LANES] = (&mut rows[at..at + LANES]).try_into().expect("a vector");
                for ((x, max), sum) in row.iter_mut().zip(&max).zip(&mut sums) {
                    *x = exp(*x - max);
                    *sum += *x;
                }
            }
            let scale = sums.map(|sum| 1.0 / sum);
            for at in vectors {
                rows[at..at + LANES].iter_mut().zip(&scale).for_each(|(x, scale)| *x *= scale);
            }
        }
    }
}

simd_dispatch! {
    /// `dS = P ∘ (dP − Σ dP∘P)`, summed down the rows, in place of `dP`. Rows are `step` long, whole vectors.
    fn softmax_backward(weights: &[f32], gradient: &mut [f32], step: usize) {
        for lanes in (0..step).step_by(LANES) {
            let mut sums = [0f32; LANES];
            for at in (lanes..weights.len()).step_by(step) {
                let (p, g) = (&weights[at..at + LANES], &gradient[at..at + LANES]);
                sums.iter_mut().zip(p).zip(g).for_each(|((sum, p), g)| *sum += p * g);
            }
            for at in (lanes..weights.len()).step_by(step) {
                let (p, g) = (&weights[at..at + LANES], &mut gradient[at..at + LANES]);
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
            let weights = &mut weights[..block.seen * block.step];
            heads.weights(qkv, head, block, queries_t, weights);
            let mixed = &mut mixed[block.start * d + head * e..];
            let weights = Matrix::rows(weights, block.step).t(); // [queries, seen]
            values.gemm_range((block.end - block.start, 0..block.seen, e), weights, mixed, d, Accumulate::Write, 1.0);
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
    let (count, scale) = (heads.columns - padding, 1.0 / (e as f32).sqrt());
    d_qkv.fill(0.0); // keys and values take what every block of queries adds
    let AttentionScratch { weights, gradient, packed: [turned, keys, queries, d_head] } = scratch;
    for head in 0..heads.heads {
        let d_mixed = |from: usize| Matrix::rows(&d_mixed[from * d + head * e..], d); // [L − from, E]
        keys.fill(heads.part(qkv, head, 1, padding), count, e);
        queries.fill(heads.part(qkv, head, 0, padding), count, e);
        d_head.fill(d_mixed(padding), count, e);
        let at = |which: usize, row: usize| row * step + heads.at(head, which);
        for block in heads.blocks() {
            let QueryBlock { start, end, seen, step: lanes } = block;
            let (rows, within) = (end - start, start - padding..end - padding);
            let (weights, gradient) = (&mut weights[..seen * lanes], &mut gradient[..seen * lanes]);
            heads.weights(qkv, head, block, turned, weights);
            let weights_t = Matrix::rows(weights, lanes); // [seen, queries]
            d_head.gemm_range(
                (seen, within.clone(), e),
                weights_t,
                &mut d_qkv[at(2, padding)..],
                step,
                Accumulate::Add,
                1.0,
            );
            turned.fill(d_mixed(start).t(), e, rows);
            turned.gemm_range(
                (seen, 0..e, rows),
                heads.part(qkv, head, 2, padding),
                gradient,
                lanes,
                Accumulate::Write,
                1.0,
            );
            softmax_backward(weights, gradient, lanes);
            let gradient_t = Matrix::rows(gradient, lanes); // [seen, queries]
            keys.gemm_range(
                (rows, 0..seen, e),
                gradient_t.t(),
                &mut d_qkv[at(0, start)..],
                step,
                Accumulate::Write,
                scale,
            );
            queries.gemm_range(
                (seen, within, e),
                gradient_t,
                &mut d_qkv[at(1, padding)..],
                step,
                Accumulate::Add,
                scale,
            );
        }
    }
}
