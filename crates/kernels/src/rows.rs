//! Work on rows of `D` numbers: layer norm, activation functions, biases.

use crate::activation::Activation;
use crate::buffer::PooledBuffer;
use crate::simd::{LANES, exp, simd_dispatch, sum_of, total};
use rayon::prelude::*;

simd_dispatch! {
    /// `y = (x − mean)/sd · gain + bias`, row by row; keeps `[mean, 1/sd]` of each row. Ba et al. 2016, eq. 4.
    pub fn layer_norm(x: &[f32], gain: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32], statistics: &mut [f32]) {
        let d = gain.len();
        for ((x, y), statistics) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(statistics.chunks_exact_mut(2)) {
            let mean = sum_of(x, |x| x) / d as f32;
            let variance = sum_of(x, |x| (x - mean) * (x - mean)) / d as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                *y = (x - mean) * scale * gain + bias;
            }
            statistics[0] = mean;
            statistics[1] = scale;
        }
    }
}

simd_dispatch! {
    /// Adds to `dx` the gradient of [`layer_norm`]'s input, and to `d_gain` and `d_bias` those of its parameters.
    pub fn layer_norm_backward(
        dy: &[f32],
        x: &[f32],
        statistics: &[f32],
        gain: &[f32],
        dx: &mut [f32],
        d_gain: &mut [f32],
        d_bias: &mut [f32],
    ) {
        let d = gain.len();
        let rows = dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(statistics.chunks_exact(2)).zip(dx.chunks_exact_mut(d));
        for (((dy, x), statistics), dx) in rows {
            let (mean, scale) = (statistics[0], statistics[1]);
            let (mut sums, mut products) = ([0f32; LANES], [0f32; LANES]);
            let inputs = dy.chunks(LANES).zip(x.chunks(LANES)).zip(gain.chunks(LANES));
            for (((dy, x), gain), (d_gain, d_bias)) in inputs.zip(d_gain.chunks_mut(LANES).zip(d_bias.chunks_mut(LANES))) {
                let lanes = sums.iter_mut().zip(&mut products).zip(d_gain.iter_mut().zip(d_bias));
                for (((dy, x), gain), ((sum, product), (d_gain, d_bias))) in dy.iter().zip(x).zip(gain).zip(lanes) {
                    let unit = (x - mean) * scale;
                    *d_gain += dy * unit;
                    *d_bias += dy;
                    *sum += dy * gain;
                    *product += dy * gain * unit;
                }
            }
            let sum = total(sums) / d as f32;
            let product = total(products) / d as f32;
            for (((dx, dy), x), gain) in dx.iter_mut().zip(dy).zip(x).zip(gain) {
                *dx += scale * (dy * gain - sum - (x - mean) * scale * product);
            }
        }
    }
}

/// Rows that one thread works on at a time.
const ROWS: usize = 128;

/// The layer norm of rows as wide as the gain, and what its backward pass needs, `[mean, 1/sd]` of each row.
pub fn layer_norm_forward(x: &[f32], gain: &[f32], bias: &[f32], epsilon: f32) -> (Vec<f32>, PooledBuffer) {
    let d = gain.len();
    let (mut y, mut statistics) = (vec![0f32; x.len()], PooledBuffer::new(2 * x.len() / d));
    let rows = x.par_chunks(ROWS * d).zip(y.par_chunks_mut(ROWS * d)).zip(statistics.par_chunks_mut(2 * ROWS));
    rows.for_each(|((x, y), statistics)| layer_norm(x, gain, bias, epsilon, y, statistics));
    (y, statistics)
}

/// Gradients of the norm's input, gain and bias.
pub fn layer_norm_gradients(dy: &[f32], x: &[f32], statistics: &[f32], gain: &[f32]) -> [Vec<f32>; 3] {
    let d = gain.len();
    let mut dx = vec![0f32; x.len()];
    let inputs = dy.par_chunks(ROWS * d).zip(x.par_chunks(ROWS * d)).zip(statistics.par_chunks(2 * ROWS));
    let parts = inputs.zip(dx.par_chunks_mut(ROWS * d)).map(|(((dy, x), statistics), dx)| {
        let (mut d_gain, mut d_bias) = (vec![0f32; d], vec![0f32; d]);
        layer_norm_backward(dy, x, statistics, gain, dx, &mut d_gain, &mut d_bias);
        (d_gain, d_bias)
    });
    let parts: Vec<(Vec<f32>, Vec<f32>)> = parts.collect();
    let (mut d_gain, mut d_bias) = (vec![0f32; d], vec![0f32; d]);
    for (gain, bias) in &parts {
        add(gain, &mut d_gain);
        add(bias, &mut d_bias);
    }
    [dx, d_gain, d_bias]
}

simd_dispatch! {
    /// `sums = sums + x`
    pub fn add(x: &[f32], sums: &mut [f32]) {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    }
}

simd_dispatch! {
    /// `y = x/rms · gain`, row by row; keeps `1/rms` of each row. Zhang & Sennrich 2019, eq. 4.
    pub fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32, y: &mut [f32], statistics: &mut [f32]) {
        let d = gain.len();
        for ((x, y), statistics) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(statistics) {
            *statistics = 1.0 / (sum_of(x, |x| x * x) / d as f32 + epsilon).sqrt();
            y.iter_mut().zip(x).zip(gain).for_each(|((y, x), gain)| *y = x * *statistics * gain);
        }
    }
}

simd_dispatch! {
    /// What [`rms_norm`] gave, from what it kept.
    pub fn rms_normed(x: &[f32], statistics: &[f32], gain: &[f32], y: &mut [f32]) {
        let d = gain.len();
        for ((x, y), statistics) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(statistics) {
            y.iter_mut().zip(x).zip(gain).for_each(|((y, x), gain)| *y = x * statistics * gain);
        }
    }
}

simd_dispatch! {
    /// Adds to `dx` the gradient of [`rms_norm`]'s input, and to `d_gain` that of its gain.
    pub fn rms_norm_backward(
        dy: &[f32],
        x: &[f32],
        statistics: &[f32],
        gain: &[f32],
        dx: &mut [f32],
        d_gain: &mut [f32],
    ) {
        let d = gain.len();
        let rows = dy.chunks_exact(d).zip(x.chunks_exact(d)).zip(statistics).zip(dx.chunks_exact_mut(d));
        for (((dy, x), &statistics), dx) in rows {
            let mut products = [0f32; LANES];
            let inputs = dy.chunks(LANES).zip(x.chunks(LANES)).zip(gain.chunks(LANES));
            for (((dy, x), gain), d_gain) in inputs.zip(d_gain.chunks_mut(LANES)) {
                let lanes = products.iter_mut().zip(d_gain);
                for (((dy, x), gain), (product, d_gain)) in dy.iter().zip(x).zip(gain).zip(lanes) {
                    *d_gain += dy * x * statistics;
                    *product += dy * gain * x;
                }
            }
            let product = total(products) * statistics * statistics / d as f32;
            for (((dx, dy), x), gain) in dx.iter_mut().zip(dy).zip(x).zip(gain) {
                *dx += statistics * (dy * gain - x * product);
            }
        }
    }
}

simd_dispatch! {
    /// `SiLU(gate) · up`, `SiLU(x) = x·σ(x)`. Shazeer 2020, eq. 6.
    pub fn gated(gate: &[f32], up: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(gate).zip(up).for_each(|((y, g), u)| *y = g / (1.0 + exp(-g)) * u);
    }
}

simd_dispatch! {
    /// Gradients of [`gated`]'s inputs.
    pub fn gated_backward(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        let inputs = gate.iter().zip(up).zip(dy);
        for (((g, u), dy), (d_gate, d_up)) in inputs.zip(d_gate.iter_mut().zip(d_up)) {
            let s = 1.0 / (1.0 + exp(-g));
            *d_up = dy * g * s;
            *d_gate = dy * u * s * (1.0 + g * (1.0 - s));
        }
    }
}

/// Rotates heads of `2·cos.len()` numbers by their rotary angles, `sign` 1, or back, −1. Su et al. 2021, half-split.
pub fn rotate(heads: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    for head in heads.chunks_exact_mut(2 * half) {
        let (a, b) = head.split_at_mut(half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let sin = sign * sin;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// √(2/π)
const ROOT: f32 = 0.797_884_6;

/// `GELU(x) = x·σ(2u)`, `u = √(2/π)(x + 0.044715 x³)`: Hendrycks & Gimpel's tanh form, as ½(1 + tanh u) = σ(2u).
#[inline(always)]
fn gelu_sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-2.0 * ROOT * (x + 0.044_715 * x * x * x)))
}

/// Φ(x), the normal distribution function, and its derivative. Abramowitz & Stegun 1964, 7.1.26: within 1e-7.
#[inline(always)]
fn normal_distribution(x: f32) -> (f32, f32) {
    const TERMS: [f32; 5] = [0.254_829_6, -0.284_496_74, 1.421_413_7, -1.453_152, 1.061_405_4];
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let density = exp(-0.5 * x * x);
    let polynomial = TERMS.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    let tail = 0.5 * polynomial * density; // Φ(−|x|)
    (if x < 0.0 { tail } else { 1.0 - tail }, density * 0.398_942_3)
}

simd_dispatch! {
    /// The MLP's activation.
    pub fn activation(activation: Activation, x: &[f32], y: &mut [f32]) {
        match activation {
            Activation::GeluTanh => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * gelu_sigmoid(x)),
            Activation::SquaredRelu => y.iter_mut().zip(x).for_each(|(y, &x)| {
                let positive = x.max(0.0);
                *y = positive * positive;
            }),
            Activation::Silu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x / (1.0 + exp(-x))),
            Activation::Gelu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * normal_distribution(x).0),
            Activation::Relu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.max(0.0)),
        }
    }
}

simd_dispatch! {
    /// Makes `dy` the gradient before the activation, and `y` what the activation gave.
    pub fn activation_backward(activation: Activation, x: &[f32], dy: &mut [f32], y: &mut [f32]) {
        match activation {
            Activation::GeluTanh => {
                for ((dy, y), &x) in dy.iter_mut().zip(y.iter_mut()).zip(x) {
                    let s = gelu_sigmoid(x);
                    *y = x * s;
                    *dy *= s + x * s * (1.0 - s) * (2.0 * ROOT) * (1.0 + 3.0 * 0.044_715 * x * x);
                }
            }
            Activation::SquaredRelu => {
                for ((dy, y), &x) in dy.iter_mut().zip(y.iter_mut()).zip(x) {
                    let positive = x.max(0.0);
                    *y = positive * positive;
                    *dy *= 2.0 * positive;
                }
            }
            Activation::Silu => {
                for ((dy, y), &x) in dy.iter_mut().zip(y.iter_mut()).zip(x) {
                    let s = 1.0 / (1.0 + exp(-x));
                    *y = x * s;
                    *dy *= s * (1.0 + x * (1.0 - s));
                }
            }
            Activation::Gelu => {
                for ((dy, y), &x) in dy.iter_mut().zip(y.iter_mut()).zip(x) {
                    let (probability, density) = normal_distribution(x);
                    *y = x * probability;
                    *dy *= probability + x * density;
                }
            }
            Activation::Relu => {
                for ((dy, y), &x) in dy.iter_mut().zip(y.iter_mut()).zip(x) {
                    *y = x.max(0.0);
                    *dy *= if x > 0.0 { 1.0 } else { 0.0 };
                }
            }
        }
    }
}

simd_dispatch! {
    /// Every row of `y` becomes the bias.
    pub fn fill(bias: &[f32], y: &mut [f32]) {
        y.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
    }
}

simd_dispatch! {
    /// The bias is added to every row of `y`.
    pub fn add_bias_to(bias: &[f32], y: &mut [f32]) {
        for y in y.chunks_exact_mut(bias.len()) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

simd_dispatch! {
    /// Every row of `y` becomes the row of `x` plus the bias.
    pub fn add_bias(x: &[f32], bias: &[f32], y: &mut [f32]) {
        let d = bias.len();
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
                *y = x + b;
            }
        }
    }
}

simd_dispatch! {
    /// Sums of the columns of rows as wide as `sums`.
    pub fn column_sums(x: &[f32], sums: &mut [f32]) {
        sums.fill(0.0);
        for row in x.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
}
