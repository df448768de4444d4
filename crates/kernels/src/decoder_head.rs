//! The head of a decoder, and the choice of next tokens. Logits are made for some tokens of the vocabulary at a time, and their
//! softmax is summed while they are in the cache.
//!
//! Of a rounded head only the sums over blocks of tokens are kept, each relative to the largest logit of its block (Milakov &
//! Gimelshein 2018), and the block that a draw falls in is made again. Of a head in f32 the logits of one step are kept: its weights
//! are relative to the largest logit of all, which is known only at the end.

use crate::buffer::PooledBuffer;
use crate::linear_matrix::{LeftRows, LinearMatrix, PackedMatrix};
use crate::matrix::{Accumulate, Matrix};
use crate::rows;
use crate::simd::{exp, max_of, simd_dispatch, sum_of};
use rayon::prelude::*;
use std::ops::Range;

/// Tokens that are summed together, and that a draw skips at once.
const BLOCK: usize = 64;
/// Tokens whose logits a thread makes at a time: those of many rows stay in the second cache.
const CHUNK: usize = 32 * BLOCK;

/// What makes logits of hidden states.
#[derive(Debug, Clone, Copy)]
pub struct DecoderHead<'a> {
    /// `[D, V]`; `None` where it is the embedding.
    pub matrix: Option<LinearMatrix<'a>>,
    /// `[V]`; empty where there is none.
    pub bias: &'a [f32],
    /// Logits are multiplied by this.
    pub multiplier: f32,
    /// `cap·tanh(logit/cap)`
    pub soft_cap: Option<f32>,
}

impl Default for DecoderHead<'_> {
    fn default() -> Self {
        Self { matrix: None, bias: &[], multiplier: 1.0, soft_cap: None }
    }
}

/// A head ready to decode with.
#[derive(Debug, Clone)]
pub struct PackedHead {
    /// `[D, V]`
    matrix: PackedMatrix,
    /// `[V]`; empty where there is none.
    bias: Vec<f32>,
    multiplier: f32,
    soft_cap: Option<f32>,
    width: usize,
    vocabulary: usize,
}

/// Distributions of the next token after `N` states.
#[derive(Debug)]
pub struct TokenDistributions<'a> {
    states: usize,
    vocabulary: usize,
    logits: StepLogits<'a>,
}

/// What is kept of the logits of a step.
#[derive(Debug)]
enum StepLogits<'a> {
    /// All, chunk by chunk `[N, CHUNK]`; hidden ones are −∞.
    All(PooledBuffer),
    /// Sums of their weights, chunk by chunk `[N, CHUNK / BLOCK]`, and what they can be made of again.
    Sums { sums: Vec<BlockSum>, head: &'a PackedHead, states: Vec<f32>, hidden: Vec<Option<&'a [bool]>> },
}

/// The largest logit of a block, −∞ where all are hidden, and `Σ exp(logit − max)`.
#[derive(Debug, Clone, Copy, Default)]
struct BlockSum {
    max: f32,
    sum: f32,
}

/// The distribution of the next token after one state.
#[derive(Debug)]
pub struct TokenDistribution<'a> {
    all: &'a TokenDistributions<'a>,
    state: usize,
    /// The largest logit.
    max: f32,
    /// `Σ exp(logit − max)` of each block.
    sums: Vec<f64>,
    total: f64,
}

impl PackedHead {
    /// `embedding` `[D, V]` is the matrix where the head has none.
    pub fn new(head: DecoderHead<'_>, embedding: LinearMatrix<'_>, [width, vocabulary]: [usize; 2]) -> Self {
        let DecoderHead { matrix, bias, multiplier, soft_cap } = head;
        let matrix = matrix.unwrap_or(embedding).packed([width, vocabulary]);
        Self { matrix, bias: bias.to_vec(), multiplier, soft_cap, width, vocabulary }
    }

    /// Adds a column of the matrix times a factor to `x`.
    pub fn add_column(&self, column: usize, factor: f32, x: &mut [f32]) {
        self.matrix.add_column(column, factor, x);
    }

    /// The distributions after normed states `[N, D]`. Tokens that are `hidden` `[V]` from a state have no probability. `split`:
    /// threads share the vocabulary, which changes no number.
    pub fn distributions<'a>(
        &'a self,
        states: Vec<f32>,
        hidden: Vec<Option<&'a [bool]>>,
        split: bool,
    ) -> TokenDistributions<'a> {
        let (n, v) = (states.len() / self.width.max(1), self.vocabulary);
        assert!(hidden.len() == n, "a mask or none for each state");
        let rows = self.matrix.left_rows(Matrix::rows(&states, self.width), n);
        let logits = if matches!(self.matrix, PackedMatrix::F32(_)) {
            let mut logits = PooledBuffer::new(n * v);
            chunks_among_threads(&mut logits, n * CHUNK, split, |chunk, logits| {
                self.logits(&rows, chunk_of(chunk, v), &hidden, logits);
            });
            StepLogits::All(logits)
        } else {
            let mut sums = vec![BlockSum::default(); n * v.div_ceil(BLOCK)];
            chunks_among_threads(&mut sums, n * CHUNK / BLOCK, split, |chunk, sums| {
                let (tokens, blocks) = (chunk_of(chunk, v), sums.len() / n);
                let (mut logits, width) = (PooledBuffer::new(n * tokens.len()), tokens.len());
                self.logits(&rows, tokens, &hidden, &mut logits);
                let rows = logits.chunks_exact(width).zip(sums.chunks_exact_mut(blocks));
                rows.for_each(|(logits, sums)| sum_blocks(logits, sums));
            });
            drop(rows);
            StepLogits::Sums { sums, head: self, states, hidden }
        };
        TokenDistributions { states: n, vocabulary: v, logits }
    }

    /// Logits of some tokens `[N, tokens]`, hidden ones −∞.
    fn logits(&self, states: &LeftRows<'_>, tokens: Range<usize>, hidden: &[Option<&[bool]>], logits: &mut [f32]) {
        let width = tokens.len();
        let over = if self.bias.is_empty() { Accumulate::Write } else { Accumulate::Add };
        if over == Accumulate::Add {
            rows::fill(&self.bias[tokens.clone()], logits, width);
        }
        self.matrix.columns_product(states, tokens.clone(), logits, width, over);
        if self.multiplier != 1.0 {
            logits.iter_mut().for_each(|logit| *logit *= self.multiplier);
        }
        if let Some(cap) = self.soft_cap {
            rows::soft_cap(logits, cap);
        }
        for (row, hidden) in logits.chunks_exact_mut(width).zip(hidden) {
            hidden.inspect(|hidden| hide(&hidden[tokens.clone()], row));
        }
    }
}

/// The tokens of a chunk.
fn chunk_of(chunk: usize, vocabulary: usize) -> Range<usize> {
    chunk * CHUNK..vocabulary.min((chunk + 1) * CHUNK)
}

/// Writes each chunk of so many numbers, on this thread or shared among all.
fn chunks_among_threads<T: Send>(all: &mut [T], size: usize, split: bool, write: impl Fn(usize, &mut [T]) + Sync) {
    match split {
        _ if all.is_empty() => {}
        true => all.par_chunks_mut(size).enumerate().for_each(|(chunk, to)| write(chunk, to)),
        false => all.chunks_mut(size).enumerate().for_each(|(chunk, to)| write(chunk, to)),
    }
}

/// Those numbers of a state that are of a chunk, where `all` has them chunk by chunk, `size` numbers of each of `states`, and `length`
/// of a state in all chunks.
fn of_chunk<T>(all: &[T], [states, size, length]: [usize; 3], chunk: usize, state: usize) -> &[T] {
    let (first, width) = (chunk * size, size.min(length - chunk * size));
    &all[states * first + state * width..][..width]
}

impl TokenDistributions<'_> {
    /// The distribution of one state with these logits `[V]`, of which some are hidden.
    pub fn of_logits(logits: &[f32], hidden: Option<&[bool]>) -> Self {
        let mut all = PooledBuffer::new(logits.len());
        all.copy_from_slice(logits);
        hidden.inspect(|hidden| hide(hidden, &mut all));
        Self { states: 1, vocabulary: logits.len(), logits: StepLogits::All(all) }
    }

    /// The distribution after one of the states.
    pub fn after(&self, state: usize) -> TokenDistribution<'_> {
        let mut sums = vec![0f64; self.vocabulary.div_ceil(BLOCK)];
        let chunks = 0..self.vocabulary.div_ceil(CHUNK);
        let max = match &self.logits {
            StepLogits::All(all) => {
                let logits = |chunk| of_chunk(all, [self.states, CHUNK, self.vocabulary], chunk, state);
                let max = chunks.clone().map(|chunk| largest_of(logits(chunk))).fold(f32::NEG_INFINITY, f32::max);
                let to = sums.chunks_mut(CHUNK / BLOCK);
                chunks.zip(to).for_each(|(chunk, sums)| sum_weights(logits(chunk), max, sums));
                max
            }
            StepLogits::Sums { sums: all, .. } => {
                let blocks = sums.len();
                let of_blocks = |chunk| of_chunk(all, [self.states, CHUNK / BLOCK, blocks], chunk, state);
                let max = chunks.clone().flat_map(of_blocks).map(|block| block.max).fold(f32::NEG_INFINITY, f32::max);
                let to = sums.chunks_mut(CHUNK / BLOCK);
                chunks.zip(to).for_each(|(chunk, sums)| scale_sums(of_blocks(chunk), max, sums));
                max
            }
        };
        let total = sums.iter().sum();
        TokenDistribution { all: self, state, max, sums, total }
    }

    /// The logits after one of the states, `[V]`; those of hidden tokens are −∞.
    pub fn logits(&self, state: usize) -> Vec<f32> {
        let mut to = [0f32; BLOCK];
        (0..self.vocabulary.div_ceil(BLOCK)).flat_map(|block| self.block(state, block, &mut to).to_vec()).collect()
    }

    /// The logits of a block, made again where they were not kept.
    fn block<'b>(&self, state: usize, block: usize, to: &'b mut [f32; BLOCK]) -> &'b [f32] {
        let tokens = block * BLOCK..self.vocabulary.min((block + 1) * BLOCK);
        let to = &mut to[..tokens.len()];
        match &self.logits {
            StepLogits::All(all) => {
                let (chunk, first) = (tokens.start / CHUNK, tokens.start % CHUNK);
                let logits = of_chunk(all, [self.states, CHUNK, self.vocabulary], chunk, state);
                to.copy_from_slice(&logits[first..first + tokens.len()]);
            }
            StepLogits::Sums { head, states, hidden, .. } => {
                let states = &states[state * head.width..][..head.width];
                let rows = head.matrix.left_rows(Matrix::rows(states, head.width), 1);
                head.logits(&rows, tokens, &hidden[state..=state], to);
            }
        }
        to
    }

    /// The largest logit of a block.
    fn block_max(&self, state: usize, block: usize) -> f32 {
        match &self.logits {
            StepLogits::All(_) => largest_of(self.block(state, block, &mut [0f32; BLOCK])),
            StepLogits::Sums { sums, .. } => {
                let (blocks, size) = (self.vocabulary.div_ceil(BLOCK), CHUNK / BLOCK);
                of_chunk(sums, [self.states, size, blocks], block / size, state)[block % size].max
            }
        }
    }
}

impl TokenDistribution<'_> {
    /// The token at quantile `u`, and its log-probability.
    pub fn draw(&self, u: f64) -> (u32, f32) {
        // 1. The block in which the quantile lies; the last that has any weight where rounding leaves none.
        let mut remaining = u * self.total;
        let mut block = 0;
        for (i, &sum) in self.sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            block = i;
            if remaining < sum {
                break;
            }
            remaining -= sum;
        }
        // 2. The token within it.
        let (mut to, mut weights) = ([0f32; BLOCK], [0f32; BLOCK]);
        let logits = self.all.block(self.state, block, &mut to);
        let weights = &mut weights[..logits.len()];
        weights_of(logits, self.max, weights);
        let mut token = 0;
        for (i, &w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            token = i;
            remaining -= f64::from(w);
            if remaining < 0.0 {
                break;
            }
        }
        ((block * BLOCK + token) as u32, self.logp(logits[token]))
    }

    /// The logits `[V]`; those of hidden tokens are −∞.
    pub fn logits(&self) -> Vec<f32> {
        self.all.logits(self.state)
    }

    /// The likeliest token, the first of equals, and its log-probability.
    pub fn likeliest(&self) -> (u32, f32) {
        let block = (0..self.sums.len()).find(|&block| self.all.block_max(self.state, block) == self.max).unwrap_or(0);
        let mut to = [0f32; BLOCK];
        let logits = self.all.block(self.state, block, &mut to);
        let token = logits.iter().position(|&logit| logit == self.max).unwrap_or(0);
        ((block * BLOCK + token) as u32, self.logp(logits[token]))
    }

    /// Log-probability of a token, given its logit.
    fn logp(&self, logit: f32) -> f32 {
        (f64::from(logit - self.max) - self.total.ln()) as f32
    }
}

simd_dispatch! {
    /// Hidden tokens' logits become −∞.
    fn hide(hidden: &[bool], row: &mut [f32]) {
        row.iter_mut().zip(hidden).for_each(|(x, hidden)| *x = if *hidden { f32::NEG_INFINITY } else { *x });
    }
}

simd_dispatch! {
    fn largest_of(row: &[f32]) -> f32 {
        max_of(row)
    }
}

simd_dispatch! {
    /// Largest logits and sums of the blocks of a row.
    fn sum_blocks(logits: &[f32], sums: &mut [BlockSum]) {
        for (block, to) in logits.chunks(BLOCK).zip(sums) {
            let max = max_of(block);
            let sum = if max > f32::NEG_INFINITY { sum_of(block, |x| exp(x - max)) } else { 0.0 };
            *to = BlockSum { max, sum };
        }
    }
}

simd_dispatch! {
    /// The sums of blocks relative to the largest logit of all.
    fn scale_sums(blocks: &[BlockSum], max: f32, sums: &mut [f64]) {
        for (to, block) in sums.iter_mut().zip(blocks) {
            *to = f64::from(block.sum) * f64::from(exp(block.max - max));
        }
    }
}

simd_dispatch! {
    /// `Σ exp(logit − max)` of each block of a row.
    fn sum_weights(logits: &[f32], max: f32, sums: &mut [f64]) {
        for (block, to) in logits.chunks(BLOCK).zip(sums) {
            *to = f64::from(sum_of(block, |x| exp(x - max)));
        }
    }
}

simd_dispatch! {
    /// `exp(logit − max)`
    fn weights_of(logits: &[f32], max: f32, weights: &mut [f32]) {
        weights.iter_mut().zip(logits).for_each(|(w, x)| *w = exp(x - max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::{FrozenMatrix, FrozenNumbers};
    use crate::testing::numbers;
    use std::sync::Arc;

    #[test]
    fn a_draw_takes_the_quantile_over_allowed_tokens_only() {
        let logits = [0.0, 5.0, 0.0, 2f32.ln()]; // 1, hidden, 1, 2 of 4
        let all = TokenDistributions::of_logits(&logits, Some(&[false, true, false, false]));
        let at = |u| all.after(0).draw(u);
        assert_eq!([at(0.0).0, at(0.24).0, at(0.26).0, at(0.49).0, at(0.51).0, at(0.999).0], [0, 0, 2, 2, 3, 3]);
        assert!((at(0.6).1 - 0.5f32.ln()).abs() < 1e-6);
        // over several blocks: all weight is on tokens 70 and 150
        let mut hidden = [true; 200];
        (hidden[70], hidden[150]) = (false, false);
        let all = TokenDistributions::of_logits(&[0.0; 200], Some(&hidden));
        assert_eq!([0.0, 0.49, 0.51, 1.0].map(|u| all.after(0).draw(u).0), [70, 70, 150, 150]);
    }

    /// Draws, log-probs and the likeliest token after one state, against the softmax of its logits in f64.
    fn check(next: &TokenDistribution<'_>, logits: &[f32]) {
        let weights: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
        let total: f64 = weights.iter().sum();
        for u in [0.0, 0.1, 0.37, 0.5, 0.83, 0.999] {
            let (token, logp) = next.draw(u);
            let before = weights[..token as usize].iter().sum::<f64>() / total;
            let share = weights[token as usize] / total;
            assert!(
                before - 1e-6 <= u && u <= before + share + 1e-6,
                "{u}: {token} has {before} before it, and {share}"
            );
            assert!((f64::from(logp) - share.ln()).abs() < 1e-6, "{u}: {logp}, {}", share.ln());
        }
        let best = (0..logits.len()).reduce(|best, v| if logits[v] > logits[best] { v } else { best });
        let (token, logp) = next.likeliest();
        assert_eq!(Some(token as usize), best);
        assert!((f64::from(logp) - (weights[token as usize] / total).ln()).abs() < 1e-6);
    }

    #[test]
    fn every_kind_of_head_draws_from_the_softmax_of_its_logits() {
        let (n, d) = (3, 40);
        for v in [41, 64, CHUNK - 3, 2 * CHUNK + 150] {
            let (w, bias, states) = (numbers(d * v, 1), numbers(v, 2), numbers(n * d, 3));
            let mask: Vec<bool> = (0..v).map(|token| token % 7 == 3 || token / BLOCK == 1).collect();
            let hidden = [None, Some(mask.as_slice()), None];
            let frozen = [FrozenNumbers::Bf16, FrozenNumbers::Q8]
                .map(|numbers| Arc::new(FrozenMatrix::new(Matrix::rows(&w, v), d, v, numbers)));
            for matrix in [w.as_slice().into(), LinearMatrix::Frozen(&frozen[0]), LinearMatrix::Frozen(&frozen[1])] {
                for (bias, multiplier, soft_cap) in [(&[][..], 1.0, None), (&bias[..], 3.0, Some(4.0))] {
                    let head = DecoderHead { matrix: Some(matrix), bias, multiplier, soft_cap };
                    let head = PackedHead::new(head, LinearMatrix::default(), [d, v]);
                    let [serial, shared] =
                        [false, true].map(|split| head.distributions(states.clone(), hidden.to_vec(), split));
                    let mut logits = vec![0f32; n * v];
                    let rows = head.matrix.left_rows(Matrix::rows(&states, d), n);
                    head.logits(&rows, 0..v, &hidden, &mut logits);
                    for (state, logits) in logits.chunks_exact(v).enumerate() {
                        assert_eq!(serial.logits(state), logits, "{v}: made in parts, or again");
                        assert!(hidden[state].is_none_or(|mask| (0..v).all(|i| mask[i] == logits[i].is_infinite())));
                        check(&serial.after(state), logits);
                        let (one, other) = (serial.after(state), shared.after(state));
                        assert_eq!((one.max, one.total, one.sums), (other.max, other.total, other.sums));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_far_below_the_largest_logit_is_never_drawn() {
        let (d, v) = (1, 3 * BLOCK);
        let mut w = vec![-1000.0; v];
        w[BLOCK + 5] = 2.0;
        let matrix = Arc::new(FrozenMatrix::new(Matrix::rows(&w, v), d, v, FrozenNumbers::Bf16));
        let head = DecoderHead { matrix: Some(LinearMatrix::Frozen(&matrix)), ..DecoderHead::default() };
        let head = PackedHead::new(head, LinearMatrix::default(), [d, v]);
        let all = head.distributions(vec![1.0], vec![None], false);
        assert_eq!([0.0, 0.5, 1.0].map(|u| all.after(0).draw(u)), [((BLOCK + 5) as u32, 0.0); 3]);
    }
}
