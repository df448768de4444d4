//! Log-probs of chosen tokens straight from hidden states. The forward pass works on a few rows and a panel of the vocabulary
//! at a time. It keeps the logits of as many panels as fit in a budget; the backward pass makes those of the others again.

use crate::buffer::PooledBuffer;
use crate::linear_matrix::{LeftRows, LinearMatrix, PackedColumns};
use crate::matrix::{Accumulate, Matrix};
use crate::product::product;
use crate::rows;
use crate::simd::{exp, max_of, simd_dispatch, sum_of};
use rayon::prelude::*;

/// The matrix that reads hidden states out.
#[derive(Debug, Clone, Copy)]
pub struct LmHead<'a> {
    /// `[D, V]`; the embedding of a tied head stands turned.
    pub matrix: LinearMatrix<'a>,
    pub vocabulary: usize,
    /// `cap·tanh(logit/cap)`
    pub soft_cap: Option<f32>,
    /// Tokens that cannot be said, `[T, V]` true = hidden; row i has column `i mod T`.
    pub hidden: Option<&'a [bool]>,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug, Clone)]
pub struct LogpSaved {
    /// `log Σ exp(logit)`, `[N]`
    log_z: Vec<f32>,
    /// Of each panel the logits `[rows, width]` of each block of rows; of a panel that is made again, none.
    logits: Vec<Vec<PooledBuffer>>,
}

impl LogpSaved {
    /// Bytes of the logits that were kept.
    pub fn logits_bytes(&self) -> usize {
        self.logits.iter().flatten().map(|block| size_of_val::<[f32]>(block)).sum()
    }
}

/// What the backward pass gives.
#[derive(Debug, Clone)]
pub struct LogpGradient {
    /// `[N, D]`
    pub states: Vec<f32>,
    /// As the weight; `None` where nobody asked.
    pub weight: Option<Vec<f32>>,
}

/// Rows worked on at a time.
const ROWS: usize = 128;
/// Columns of the vocabulary worked on at a time: the logits of so many rows stay in the second cache.
const PANEL: usize = 512;
/// Columns that are packed at a time, forward.
const CHUNK: usize = 4096;
/// Groups of panels in the backward pass; each sums its own gradient of the states.
const GROUPS: usize = 4;

/// Some rows of states `[count, D]`, from `first` on.
struct HeadRows<'a> {
    states: LeftRows<'a>,
    first: usize,
}

impl LmHead<'_> {
    /// The columns from `from` on, a panel of them.
    fn panel(self, d: usize, from: usize) -> PackedColumns {
        self.matrix.packed_columns([d, self.vocabulary], from..self.vocabulary.min(from + PANEL))
    }

    /// The rows from `first` on, a block of them.
    fn rows(self, states: &[f32], d: usize, first: usize) -> HeadRows<'_> {
        let count = ROWS.min(states.len() / d.max(1) - first);
        let states = Matrix::rows(&states[first * d..(first + count) * d], d);
        HeadRows { states: LeftRows::new(states, count, d, self.matrix), first }
    }

    /// Logits of some rows on a panel, `[rows, width]`, hidden ones at −1e30.
    fn logits(self, panel: &PackedColumns, rows: &HeadRows<'_>, logits: &mut [f32]) {
        let (width, from) = (panel.columns.len(), panel.columns.start);
        panel.product(&rows.states, logits, width, Accumulate::Write);
        if let Some(cap) = self.soft_cap {
            rows::soft_cap(logits, cap);
        }
        let Some(hidden) = self.hidden else { return };
        let columns = hidden.len() / self.vocabulary;
        for (i, row) in logits.chunks_exact_mut(width).enumerate() {
            let hidden = &hidden[(rows.first + i) % columns * self.vocabulary + from..][..width];
            mask_tokens(hidden, row);
        }
    }
}

/// Log-probs of `targets` `[N]` after states `[N, D]`, and what the backward pass needs, in which logits take at most
/// `logits_memory` bytes.
pub fn logp_forward(head: LmHead<'_>, states: &[f32], targets: &[i32], logits_memory: usize) -> (Vec<f32>, LogpSaved) {
    let (n, v) = (targets.len(), head.vocabulary);
    let d = states.len() / n.max(1);
    let (panels, panel_bytes) = (v.div_ceil(PANEL), n.max(1) * PANEL * size_of::<f32>());
    let saved_panels = panels.min(logits_memory / panel_bytes);
    // spread evenly, so that each group of the backward pass has as many
    let is_saved = |from: usize| {
        let panel = from / PANEL;
        (panel + 1) * saved_panels / panels > panel * saved_panels / panels
    };
    let mut logits = vec![vec![]; panels];
    let mut logp = vec![0f32; n];
    let mut sums = vec![[f32::NEG_INFINITY, 0.0]; n]; // the largest logit m so far, and Σ exp(logit − m)
    for chunk in (0..v).step_by(CHUNK) {
        let starts: Vec<usize> = (chunk..v.min(chunk + CHUNK)).step_by(PANEL).collect();
        let panels: Vec<PackedColumns> = starts.par_iter().map(|&from| head.panel(d, from)).collect();
        let rows = logp.par_chunks_mut(ROWS).zip(sums.par_chunks_mut(ROWS)).zip(targets.par_chunks(ROWS)).enumerate();
        let of_blocks: Vec<Vec<PooledBuffer>> = rows
            .map(|(block, ((logp, sums), targets))| {
                let block = head.rows(states, d, block * ROWS);
                let (mut scratch, mut saved) = (PooledBuffer::new(ROWS * PANEL), Vec::new());
                for panel in &panels {
                    let numbers = targets.len() * panel.columns.len();
                    let mut to_save = is_saved(panel.columns.start).then(|| PooledBuffer::new(numbers));
                    let logits = to_save.as_deref_mut().unwrap_or(&mut scratch[..numbers]);
                    head.logits(panel, &block, logits);
                    add_panel(logits, panel, targets, logp, sums);
                    saved.extend(to_save);
                }
                saved
            })
            .collect();
        for saved in of_blocks {
            let of_panels = starts.iter().filter(|from| is_saved(**from)).zip(saved);
            of_panels.for_each(|(from, saved)| logits[from / PANEL].push(saved));
        }
    }
    let log_z: Vec<f32> = sums.iter().map(|[max, sum]| max + sum.ln()).collect();
    logp.iter_mut().zip(&log_z).for_each(|(logp, log_z)| *logp -= log_z);
    (logp, LogpSaved { log_z, logits })
}

/// Takes the logits of some rows on a panel into their running maximum and sum, and the targets' own.
fn add_panel(logits: &[f32], panel: &PackedColumns, targets: &[i32], logp: &mut [f32], sums: &mut [[f32; 2]]) {
    let (from, width) = (panel.columns.start, panel.columns.len());
    for (((row, logp), sum), &target) in logits.chunks_exact(width).zip(logp).zip(sums).zip(targets) {
        if let Some(&logit) = (target as usize).checked_sub(from).and_then(|index| row.get(index)) {
            *logp = logit;
        }
        *sum = add_exp(row, *sum);
    }
}

/// The gradient of the states, and of the weight if asked, from that of the log-probs `[N]`.
pub fn logp_backward(
    head: LmHead<'_>,
    states: &[f32],
    targets: &[i32],
    saved: LogpSaved,
    gradient: &[f32],
    weight_too: bool,
) -> LogpGradient {
    let (n, v) = (targets.len(), head.vocabulary);
    let d = states.len() / n.max(1);
    let LogpSaved { log_z, logits } = saved;
    let mut panels: Vec<(usize, Vec<PooledBuffer>)> = (0..v).step_by(PANEL).zip(logits).collect();
    let group = panels.len().div_ceil(GROUPS);
    let mut weight = vec![0f32; if weight_too { v * d } else { 0 }]; // [V, D]
    let weights: Vec<&mut [f32]> = match weight_too {
        true => weight.chunks_mut(group * PANEL * d).collect(),
        false => panels.chunks(group).map(|_| <&mut [f32]>::default()).collect(),
    };
    let blocks: Vec<HeadRows<'_>> = (0..n).step_by(ROWS).map(|first| head.rows(states, d, first)).collect();
    // each group: its panels of the weight's gradient, and its part of the states'
    let parts: Vec<PooledBuffer> = panels
        .par_chunks_mut(group)
        .zip(weights)
        .map(|(panels, mut weight)| {
            let mut d_states = PooledBuffer::new(n * d);
            d_states.fill(0.0);
            let (mut scratch, mut slopes) = (PooledBuffer::new(ROWS * PANEL), PooledBuffer::new(ROWS * PANEL));
            for (from, saved) in panels {
                let (from, mut saved) = (*from, std::mem::take(saved).into_iter());
                let panel = (saved.len() == 0).then(|| head.panel(d, from));
                let width = PANEL.min(v - from);
                let back = head.matrix.packed_back([d, v], from..from + width);
                let d_weight = weight.split_off_mut(..weight.len().min(width * d)).unwrap_or_default();
                for block in &blocks {
                    let (first, count) = (block.first, block.states.count);
                    let rows = first..first + count;
                    let mut from_forward = saved.next();
                    let logits = from_forward.as_deref_mut().unwrap_or(&mut scratch[..count * width]);
                    if let Some(panel) = &panel {
                        head.logits(panel, block, logits);
                    }
                    let slopes = &mut slopes[..if head.soft_cap.is_some() { logits.len() } else { 0 }];
                    rows::soft_cap_slopes(logits, head.soft_cap.unwrap_or(1.0), slopes);
                    softmax_gradient(logits, width, &log_z[rows.clone()], &gradient[rows.clone()]);
                    add_to_targets(logits, width, from, &targets[rows.clone()], &gradient[rows]);
                    rows::multiply(slopes, logits);
                    let logits = Matrix::rows(logits, width);
                    let d_states = &mut d_states[first * d..];
                    back.product(count, logits, d_states, d, Accumulate::Add);
                    if weight_too {
                        product([width, count, d], d_weight, d, Accumulate::Add, logits.t(), block.states.values, 1.0);
                    }
                }
            }
            d_states
        })
        .collect();
    let mut d_states = vec![0f32; n * d];
    d_states.par_chunks_mut(ROWS * d).enumerate().for_each(|(block, sum)| {
        for part in &parts {
            rows::add(&part[block * ROWS * d..], sum);
        }
    });
    let is_tied = matches!(head.matrix, LinearMatrix::F32 { turned: true, .. });
    let weight = weight_too.then(|| if is_tied { weight } else { transposed(&weight, v, d) });
    LogpGradient { states: d_states, weight }
}

/// Adds the gradient of each row's log-prob to the logit of its target, if that is one of the columns `from..from + width`.
fn add_to_targets(logits: &mut [f32], width: usize, from: usize, targets: &[i32], gradient: &[f32]) {
    for ((row, &target), gradient) in logits.chunks_exact_mut(width).zip(targets).zip(gradient) {
        if let Some(x) = (target as usize).checked_sub(from).and_then(|index| row.get_mut(index)) {
            *x += gradient;
        }
    }
}

/// `[D, V]` of `[V, D]`.
fn transposed(x: &[f32], v: usize, d: usize) -> Vec<f32> {
    let mut out = vec![0f32; v * d];
    out.par_chunks_mut(v).enumerate().for_each(|(column, out)| {
        out.iter_mut().enumerate().for_each(|(row, out)| *out = x[row * d + column]);
    });
    out
}

simd_dispatch! {
    /// Hidden tokens' logits become −1e30.
    fn mask_tokens(hidden: &[bool], row: &mut [f32]) {
        row.iter_mut().zip(hidden).for_each(|(x, hidden)| *x = if *hidden { -1e30 } else { *x });
    }
}

simd_dispatch! {
    /// A largest number m and `Σ exp(x − m)`, a row of numbers later. Milakov & Gimelshein 2018, alg. 3.
    fn add_exp(row: &[f32], sum: [f32; 2]) -> [f32; 2] {
        let [before, sum] = sum;
        let max = before.max(max_of(row));
        [max, sum * exp(before - max) + sum_of(row, |x| exp(x - max))]
    }
}

simd_dispatch! {
    /// Rows of logits become `−gradient·softmax`.
    fn softmax_gradient(logits: &mut [f32], width: usize, log_z: &[f32], gradient: &[f32]) {
        for ((row, log_z), gradient) in logits.chunks_exact_mut(width).zip(log_z).zip(gradient) {
            row.iter_mut().for_each(|x| *x = -gradient * exp(*x - log_z));
        }
    }
}
