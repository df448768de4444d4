//! Work on rows of `D` numbers: layer norm, activation functions, biases.

use crate::activation::Activation;
use crate::simd::{LANES, exp, simd_dispatch, sum_of, tanh, total};

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
    /// What [`layer_norm`] gave, from what it kept.
    pub fn layer_normed(x: &[f32], statistics: &[f32], gain: &[f32], bias: &[f32], y: &mut [f32]) {
        let d = gain.len();
        for ((x, y), statistics) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)).zip(statistics.chunks_exact(2)) {
            for (((y, x), gain), bias) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                *y = (x - statistics[0]) * statistics[1] * gain + bias;
            }
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

/// Rotates heads of `width` numbers, of which the first `2·cos.len()`, by their rotary angles, `sign` 1, or back, −1. Su et
/// al. 2021, half-split.
pub fn rotate(heads: &mut [f32], width: usize, cos: &[f32], sin: &[f32], sign: f32) {
    let half = cos.len();
    for head in heads.chunks_exact_mut(width) {
        let (a, b) = head[..2 * half].split_at_mut(half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let sin = sign * sin;
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// √(2/π)
const ROOT: f32 = 0.797_884_6;

/// `GELU(x) = x·σ(2u)`, `u = √(2/π)(x + 0.044715 x³)`: Hendrycks & Gimpel's tanh form, as ½(1 + tanh u) = σ(2u).
/// Like the functions below it gives the value and the slope.
#[inline(always)]
fn gelu_tanh(x: f32) -> [f32; 2] {
    let s = 1.0 / (1.0 + exp(-2.0 * ROOT * (x + 0.044_715 * x * x * x)));
    [x * s, s + x * s * (1.0 - s) * (2.0 * ROOT) * (1.0 + 3.0 * 0.044_715 * x * x)]
}

/// `x·Φ(x)`, with `Φ` to 1e-7: Abramowitz & Stegun 1964, 7.1.26.
#[inline(always)]
fn gelu(x: f32) -> [f32; 2] {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / 0.327_591_1f32.mul_add(z, 1.0);
    let p = 1.061_405_4f32;
    let p = p.mul_add(t, -1.453_152);
    let p = p.mul_add(t, 1.421_413_7);
    let p = p.mul_add(t, -0.284_496_74);
    let p = p.mul_add(t, 0.254_829_6);
    let density = exp(-z * z);
    let tail = 0.5 * p * t * density; // Φ(−|x|)
    let share = if x > 0.0 { 1.0 - tail } else { tail };
    [x * share, share + x * density * (0.5 * ROOT)]
}

#[inline(always)]
fn squared_relu(x: f32) -> [f32; 2] {
    let positive = x.max(0.0);
    [positive * positive, 2.0 * positive]
}

#[inline(always)]
fn relu(x: f32) -> [f32; 2] {
    [x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }]
}

/// `SiLU(x) = x·σ(x)`
#[inline(always)]
fn silu(x: f32) -> [f32; 2] {
    let s = 1.0 / (1.0 + exp(-x));
    [x / (1.0 + exp(-x)), s * (1.0 + x * (1.0 - s))]
}

/// An expression with an activation's function, one loop for each function.
macro_rules! by_activation {
    ($activation:expr, $f:ident => $body:expr) => {
        match $activation {
            Activation::GeluTanh => by_activation!(@with gelu_tanh, $f => $body),
            Activation::SquaredRelu => by_activation!(@with squared_relu, $f => $body),
            Activation::Silu => by_activation!(@with silu, $f => $body),
            Activation::Gelu => by_activation!(@with gelu, $f => $body),
            Activation::Relu => by_activation!(@with relu, $f => $body),
        }
    };
    (@with $function:ident, $f:ident => $body:expr) => {{
        let $f = $function;
        $body
    }};
}

simd_dispatch! {
    /// The MLP's activation.
    pub fn activation(activation: Activation, x: &[f32], y: &mut [f32]) {
        by_activation!(activation, f => y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)[0]));
    }
}

simd_dispatch! {
    /// Makes `dy` the gradient before the activation, and `y` what the activation gave.
    pub fn activation_backward(activation: Activation, x: &[f32], dy: &mut [f32], y: &mut [f32]) {
        by_activation!(activation, f => {
            for ((dy, y), &x) in dy.iter_mut().zip(y.iter_mut()).zip(x) {
                let [value, slope] = f(x);
                *y = value;
                *dy *= slope;
            }
        });
    }
}

simd_dispatch! {
    /// `activation(gate) · up` of rows `[gate, up]` of `2·width` numbers. Shazeer 2020, eq. 6.
    pub fn gated(activation: Activation, rows: &[f32], width: usize, y: &mut [f32]) {
        for (row, y) in rows.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            by_activation!(activation, f => {
                y.iter_mut().zip(gate).zip(up).for_each(|((y, &g), u)| *y = f(g)[0] * u);
            });
        }
    }
}

simd_dispatch! {
    /// Gradients `[d_gate, d_up]` of the rows of [`gated`].
    pub fn gated_backward(activation: Activation, rows: &[f32], width: usize, dy: &[f32], d_rows: &mut [f32]) {
        let all = rows.chunks_exact(2 * width).zip(dy.chunks_exact(width)).zip(d_rows.chunks_exact_mut(2 * width));
        for ((row, dy), d_row) in all {
            let ((gate, up), (d_gate, d_up)) = (row.split_at(width), d_row.split_at_mut(width));
            let all = gate.iter().zip(up).zip(dy).zip(d_gate.iter_mut().zip(d_up));
            if activation == Activation::Silu {
                for (((g, u), dy), (d_gate, d_up)) in all {
                    let s = 1.0 / (1.0 + exp(-g));
                    *d_up = dy * g * s;
                    *d_gate = dy * u * s * (1.0 + g * (1.0 - s));
                }
                continue;
            }
            by_activation!(activation, f => {
                for (((&g, u), dy), (d_gate, d_up)) in all {
                    let [value, slope] = f(g);
                    *d_up = dy * value;
                    *d_gate = dy * u * slope;
                }
            });
        }
    }
}

simd_dispatch! {
    /// `x = cap·tanh(x/cap)`
    pub fn soft_cap(x: &mut [f32], cap: f32) {
        x.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
    }
}

simd_dispatch! {
    /// Slopes of [`soft_cap`] from what it gave; 0 beyond the cap, where hidden tokens are.
    pub fn soft_cap_slopes(capped: &[f32], cap: f32, slopes: &mut [f32]) {
        for (slope, x) in slopes.iter_mut().zip(capped) {
            let t = (x / cap).clamp(-1.0, 1.0);
            *slope = 1.0 - t * t;
        }
    }
}

simd_dispatch! {
    /// `y = y·x`
    pub fn multiply(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
    }
}

simd_dispatch! {
    /// `y = scale·x`
    pub fn scale(x: &[f32], scale: f32, y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = scale * x);
    }
}

simd_dispatch! {
    /// `sums = sums + scale·x`
    pub fn add_scaled(x: &[f32], scale: f32, sums: &mut [f32]) {
        sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += scale * x);
    }
}

simd_dispatch! {
    /// Every row of `y`, rows `step` apart, becomes the bias.
    pub fn fill(bias: &[f32], y: &mut [f32], step: usize) {
        y.chunks_mut(step).for_each(|row| row[..bias.len()].copy_from_slice(bias));
    }
}

simd_dispatch! {
    /// The bias is added to every row of `y`, rows `step` apart.
    pub fn add_bias_to(bias: &[f32], y: &mut [f32], step: usize) {
        for y in y.chunks_mut(step) {
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
    /// Adds to `sums` those of the first columns of rows `step` apart.
    pub fn add_column_sums(x: &[f32], step: usize, sums: &mut [f32]) {
        for row in x.chunks(step) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }
}
