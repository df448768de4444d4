//! Causal attention of one sequence, all heads: no `[L, L]` matrix outlives its head, and the half that nobody may see
//! is not worked on. Backward makes the weights again from queries and keys.

use crate::matrix::{Matrix, product};
use crate::simd::{LANES, dot, exp, max_of, widest};

/// Queries worked on at a time.
const QUERIES: usize = 32;

/// Sizes of one sequence. Its numbers stand in rows of `3·D`: queries, keys, values, each head after head.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub columns: usize,
    pub heads: usize,
    /// `E`
    pub width: usize,
    /// Columns of padding before the first token.
    pub left: usize,
}

impl Heads {
    fn d(self) -> usize {
        self.heads * self.width
    }

    /// Scratch that the passes need.
    pub fn scratch(self) -> usize {
        2 * QUERIES * stride(self.columns)
    }

    /// Blocks of queries `start..end`.
    fn blocks(self) -> impl Iterator<Item = (usize, usize)> {
        (self.left..self.columns).step_by(QUERIES).map(move |start| (start, (start + QUERIES).min(self.columns)))
    }

    /// The softmax weights of queries `start..end` on keys `left..end`, rows [`stride`] apart; 0 on later keys.
    fn weights(self, qkv: &[f32], head: usize, (start, end): (usize, usize), weights: &mut [f32]) {
        let (d, e, step) = (self.d(), self.width, 3 * self.d());
        let queries = Matrix::rows(&qkv[start * step + head * e..], step);
        let keys = Matrix::rows(&qkv[self.left * step + d + head * e..], step);
        let count = end - self.left;
        product([end - start, e, count], weights, stride(count), false, queries, keys.t(), 1.0 / (e as f32).sqrt());
        causal_softmax(weights, stride(count), start - self.left);
    }
}

/// Numbers between the rows of a matrix of weights: whole vectors.
fn stride(keys: usize) -> usize {
    keys.next_multiple_of(LANES)
}

widest! {
    /// Row i becomes the softmax of its first `seen + i + 1` numbers, the others 0. `width` is whole vectors.
    fn causal_softmax(rows: &mut [f32], width: usize, seen: usize) {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            row[seen + i + 1..].fill(f32::NEG_INFINITY);
            let max = max_of(row);
            let mut lanes = [0f32; LANES];
            for chunk in row.as_chunks_mut::<LANES>().0 {
                for (x, lane) in chunk.iter_mut().zip(&mut lanes) {
                    *x = exp(*x - max);
                    *lane += *x;
                }
            }
            let scale = 1.0 / lanes.iter().sum::<f32>();
            row.iter_mut().for_each(|x| *x *= scale);
        }
    }
}

widest! {
    /// `dS = P ∘ (dP − Σ dP∘P)`, row by row, in place of `dP`, whose rows hold `keys` numbers. `width` is whole vectors.
    fn softmax_backward(weights: &[f32], gradient: &mut [f32], width: usize, keys: usize) {
        for (p, g) in weights.chunks_exact(width).zip(gradient.chunks_exact_mut(width)) {
            g[keys..].fill(0.0);
            let sum = dot(p, g);
            g.iter_mut().zip(p).for_each(|(g, p)| *g = p * (*g - sum));
        }
    }
}

/// `mixed`: `[L, D]`; rows of padding become 0.
pub fn forward(heads: Heads, qkv: &[f32], mixed: &mut [f32], scratch: &mut [f32]) {
    let (d, e, step) = (heads.d(), heads.width, 3 * heads.d());
    mixed[..heads.left * d].fill(0.0);
    for head in 0..heads.heads {
        for (start, end) in heads.blocks() {
            let (rows, keys) = (end - start, end - heads.left);
            let weights = &mut scratch[..rows * stride(keys)];
            heads.weights(qkv, head, (start, end), weights);
            let values = Matrix::rows(&qkv[heads.left * step + 2 * d + head * e..], step);
            let mixed = &mut mixed[start * d + head * e..];
            product([rows, keys, e], mixed, d, false, Matrix::rows(weights, stride(keys)), values, 1.0);
        }
    }
}

/// `d_qkv` `[L, 3D]` from `d_mixed` `[L, D]`.
pub fn backward(heads: Heads, qkv: &[f32], d_mixed: &[f32], d_qkv: &mut [f32], scratch: &mut [f32]) {
    let (d, e, step) = (heads.d(), heads.width, 3 * heads.d());
    let scale = 1.0 / (e as f32).sqrt();
    d_qkv.fill(0.0); // keys and values take what every block of queries adds
    let (weights, gradient) = scratch.split_at_mut(QUERIES * stride(heads.columns));
    for head in 0..heads.heads {
        for (start, end) in heads.blocks() {
            let (rows, keys) = (end - start, end - heads.left);
            let step_of = stride(keys);
            let (weights, gradient) = (&mut weights[..rows * step_of], &mut gradient[..rows * step_of]);
            heads.weights(qkv, head, (start, end), weights);
            let part = |which: usize, row: usize| row * step + which * d + head * e;
            let from = Matrix::rows(&d_mixed[start * d + head * e..], d); // [rows, E]
            let values = Matrix::rows(&qkv[part(2, heads.left)..], step);
            let weights_t = Matrix::rows(weights, step_of).t();
            product([keys, rows, e], &mut d_qkv[part(2, heads.left)..], step, true, weights_t, from, 1.0);
            product([rows, e, keys], gradient, step_of, false, from, values.t(), 1.0);
            softmax_backward(weights, gradient, step_of, keys);
            let gradient = Matrix::rows(gradient, step_of);
            let (queries, all_keys) =
                (Matrix::rows(&qkv[part(0, start)..], step), Matrix::rows(&qkv[part(1, heads.left)..], step));
            product([rows, keys, e], &mut d_qkv[part(0, start)..], step, false, gradient, all_keys, scale);
            product([keys, rows, e], &mut d_qkv[part(1, heads.left)..], step, true, gradient.t(), queries, scale);
        }
    }
}
