//! Log-probs of chosen tokens straight from hidden states. No `[N, V]` matrix is kept: the forward pass works on a few
//! rows at a time, the backward pass makes each panel of logits again.

use crate::buffer::Buffer;
use crate::matrix::{Matrix, product};
use crate::simd::{exp, max_of, widest};
use rayon::prelude::*;

/// The matrix that reads hidden states out.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    pub weight: &'a [f32],
    pub vocabulary: usize,
    /// Whether the weight is an embedding `[V, D]` (a tied head) or `[D, V]`.
    pub tied: bool,
    /// Tokens that cannot be said, `[T, V]` true = hidden; row i has column `i mod T`.
    pub hidden: Option<&'a [bool]>,
}

/// What the forward pass gives.
#[derive(Debug, Clone)]
pub struct Logp {
    /// Of the targets, `[N]`.
    pub logp: Vec<f32>,
    /// `log Σ exp(logit)`, `[N]`: all that the backward pass needs.
    pub log_z: Vec<f32>,
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
const ROWS: usize = 96;
/// Columns of the vocabulary worked on at a time.
const PANEL: usize = 512;
/// Groups of panels in the backward pass; each sums its own gradient of the states.
const GROUPS: usize = 4;

impl<'a> Head<'a> {
    /// Columns `from..` of the matrix `[D, V]`.
    fn matrix(self, d: usize, from: usize) -> Matrix<'a> {
        if self.tied {
            Matrix::rows(&self.weight[from * d..], d).t()
        } else {
            Matrix::rows(&self.weight[from..], self.vocabulary)
        }
    }

    /// Logits of some rows on columns `from..from + width`, hidden ones at −1e30.
    fn logits(self, states: &[f32], d: usize, first_row: usize, from: usize, width: usize, logits: &mut [f32]) {
        let count = states.len() / d;
        product([count, d, width], logits, width, false, Matrix::rows(states, d), self.matrix(d, from), 1.0);
        let Some(hidden) = self.hidden else { return };
        let columns = hidden.len() / self.vocabulary;
        for (i, row) in logits.chunks_exact_mut(width).enumerate() {
            let hidden = &hidden[(first_row + i) % columns * self.vocabulary + from..][..width];
            hide(hidden, row);
        }
    }
}

/// Log-probs of `targets` `[N]` after states `[N, D]`.
pub fn logp_forward(head: Head<'_>, states: &[f32], targets: &[i32]) -> Logp {
    let (n, v) = (targets.len(), head.vocabulary);
    let d = states.len() / n.max(1);
    let (mut logp, mut log_z) = (vec![0f32; n], vec![0f32; n]);
    let rows = logp.par_chunks_mut(ROWS).zip(log_z.par_chunks_mut(ROWS)).zip(targets.par_chunks(ROWS)).enumerate();
    rows.for_each(|(block, ((logp, log_z), targets))| {
        let mut logits = Buffer::new(ROWS * v);
        let logits = &mut logits[..targets.len() * v];
        let first = block * ROWS;
        head.logits(&states[first * d..(first + targets.len()) * d], d, first, 0, v, logits);
        for (((row, logp), log_z), &target) in logits.chunks_exact(v).zip(logp).zip(log_z).zip(targets) {
            *log_z = log_sum_exp(row);
            *logp = row[target as usize] - *log_z;
        }
    });
    Logp { logp, log_z }
}

/// The gradient of the states, and of the weight if asked, from that of the log-probs `[N]`.
pub fn logp_backward(
    head: Head<'_>,
    states: &[f32],
    targets: &[i32],
    log_z: &[f32],
    gradient: &[f32],
    weight_too: bool,
) -> LogpGradient {
    let (n, v) = (targets.len(), head.vocabulary);
    let d = states.len() / n.max(1);
    let panels: Vec<usize> = (0..v).step_by(PANEL).collect();
    let group = panels.len().div_ceil(GROUPS);
    // each group: its part of the states' gradient, and its panels of the weight's, `[width, D]` each
    let parts: Vec<(Buffer, Vec<Vec<f32>>)> = panels
        .par_chunks(group)
        .map(|panels| {
            let mut d_states = Buffer::new(n * d);
            d_states.fill(0.0);
            let mut logits = Buffer::new(ROWS * PANEL);
            let weights = panels.iter().map(|&from| {
                let width = PANEL.min(v - from);
                let mut d_weight = vec![0f32; if weight_too { width * d } else { 0 }];
                for first in (0..n).step_by(ROWS) {
                    let count = ROWS.min(n - first);
                    let logits = &mut logits[..count * width];
                    let rows = first..first + count;
                    let states = &states[first * d..(first + count) * d];
                    head.logits(states, d, first, from, width, logits);
                    softmax_gradient(logits, width, &log_z[rows.clone()], &gradient[rows.clone()]);
                    for (row, i) in logits.chunks_exact_mut(width).zip(rows) {
                        if let Some(x) = (targets[i] as usize).checked_sub(from).and_then(|at| row.get_mut(at)) {
                            *x += gradient[i];
                        }
                    }
                    let logits = Matrix::rows(logits, width);
                    let d_states = &mut d_states[first * d..];
                    product([count, width, d], d_states, d, true, logits, head.matrix(d, from).t(), 1.0);
                    if weight_too {
                        product([width, count, d], &mut d_weight, d, true, logits.t(), Matrix::rows(states, d), 1.0);
                    }
                }
                d_weight
            });
            let weights = weights.collect();
            (d_states, weights)
        })
        .collect();
    let mut d_states = vec![0f32; n * d];
    d_states.par_chunks_mut(ROWS * d).enumerate().for_each(|(block, sum)| {
        for (part, _) in &parts {
            sum.iter_mut().zip(&part[block * ROWS * d..]).for_each(|(sum, x)| *sum += x);
        }
    });
    let weight = weight_too.then(|| {
        let by_token: Vec<f32> = parts.into_iter().flat_map(|(_, panels)| panels).flatten().collect(); // [V, D]
        if head.tied { by_token } else { transposed(&by_token, v, d) }
    });
    LogpGradient { states: d_states, weight }
}

/// `[D, V]` of `[V, D]`.
fn transposed(x: &[f32], v: usize, d: usize) -> Vec<f32> {
    let mut out = vec![0f32; v * d];
    out.par_chunks_mut(v).enumerate().for_each(|(column, out)| {
        out.iter_mut().enumerate().for_each(|(row, out)| *out = x[row * d + column]);
    });
    out
}

widest! {
    /// Hidden tokens' logits become −1e30.
    fn hide(hidden: &[bool], row: &mut [f32]) {
        row.iter_mut().zip(hidden).for_each(|(x, hidden)| *x = if *hidden { -1e30 } else { *x });
    }
}

widest! {
    /// `log Σ exp(x)` of a row.
    fn log_sum_exp(row: &[f32]) -> f32 {
        let max = max_of(row);
        let mut lanes = [0f32; 16];
        let chunks = row.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (x, lane) in chunk.iter().zip(&mut lanes) {
                *lane += exp(*x - max);
            }
        }
        for (x, lane) in rest.iter().zip(&mut lanes) {
            *lane += exp(*x - max);
        }
        max + lanes.iter().sum::<f32>().ln()
    }
}

widest! {
    /// Rows of logits become `−gradient·softmax`.
    fn softmax_gradient(logits: &mut [f32], width: usize, log_z: &[f32], gradient: &[f32]) {
        for ((row, log_z), gradient) in logits.chunks_exact_mut(width).zip(log_z).zip(gradient) {
            row.iter_mut().for_each(|x| *x = -gradient * exp(*x - log_z));
        }
    }
}
