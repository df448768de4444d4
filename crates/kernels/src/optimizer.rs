//! Passes over all weights at once, cut into pieces of a fixed length.

use crate::simd::simd_dispatch;
use rayon::prelude::*;

/// Numbers of a piece.
const PIECE: usize = 1 << 16;

/// One update of AdamW, ready to be applied.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    pub beta1: f32,
    pub beta2: f32,
    /// `1 − β₁`, `1 − β₂`: worked out in f64, since `1 − β₂` in f32 would be off by 1e-5.
    pub rest1: f32,
    pub rest2: f32,
    /// The rate over the first moment's correction.
    pub size: f32,
    /// Root of the second moment's correction.
    pub second_root: f32,
    pub epsilon: f32,
    /// The rate, for the decay.
    pub rate: f32,
    /// What the gradient is multiplied by first.
    pub gradient_scale: f32,
}

/// Moves `weights` against `gradient`, each weight decaying at its own rate; returns the squared norms of the move and of
/// the weights before it.
/// Loshchilov & Hutter 2019, alg. 2: ε stands outside the root, after bias correction.
///
/// # Shapes
/// All slices are equally long.
pub fn adamw(
    how: AdamWStep,
    weights: &mut [f32],
    gradient: &[f32],
    decay: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) -> [f64; 2] {
    let moments = first.par_chunks_mut(PIECE).zip(second.par_chunks_mut(PIECE));
    let gradients = gradient.par_chunks(PIECE).zip(decay.par_chunks(PIECE));
    let pieces = weights.par_chunks_mut(PIECE).zip(gradients).zip(moments);
    let norms: Vec<[f64; 2]> = pieces.map(|((w, (g, decay)), (m, v))| adamw_piece(how, w, g, decay, m, v)).collect();
    norms.iter().fold([0.0; 2], |[moved, size], [m, s]| [moved + m, size + s])
}

simd_dispatch! {
    fn adamw_piece(how: AdamWStep, w: &mut [f32], g: &[f32], decay: &[f32], m: &mut [f32], v: &mut [f32]) -> [f64; 2] {
        let (mut moved, mut size) = ([0f64; 8], [0f64; 8]);
        let moments = m.chunks_mut(8).zip(v.chunks_mut(8));
        for ((w, (g, decay)), (m, v)) in w.chunks_mut(8).zip(g.chunks(8).zip(decay.chunks(8))).zip(moments) {
            let lanes = moved.iter_mut().zip(&mut size);
            for (((((w, &g), &decay), m), v), (moved, size)) in w.iter_mut().zip(g).zip(decay).zip(m).zip(v).zip(lanes) {
                let g = g * how.gradient_scale;
                *m = how.beta1 * *m + how.rest1 * g;
                *v = how.beta2 * *v + how.rest2 * g * g;
                let before = *w;
                *w = (1.0 - how.rate * decay) * before - how.size * *m / (v.sqrt() / how.second_root + how.epsilon);
                let step = f64::from(*w - before);
                *moved += step * step;
                *size += f64::from(before) * f64::from(before);
            }
        }
        [moved.iter().sum(), size.iter().sum()]
    }
}

/// `Σ x²` in f64.
pub fn squares(x: &[f32]) -> f64 {
    let pieces: Vec<f64> = x.par_chunks(PIECE).map(squares_piece).collect();
    pieces.iter().sum()
}

simd_dispatch! {
    fn squares_piece(x: &[f32]) -> f64 {
        let mut lanes = [0f64; 16];
        for x in x.chunks(16) {
            for (x, lane) in x.iter().zip(&mut lanes) {
                *lane += f64::from(*x) * f64::from(*x);
            }
        }
        lanes.iter().sum()
    }
}
