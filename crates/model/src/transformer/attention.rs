//! Causal attention with grouped queries, composed of burn's operations.

use crate::architecture::{BiasSpec, QkvLayout, QueryKeyNorm};
use crate::config::TransformerConfig;
use crate::init::Init;
use crate::projection::Projection;
use crate::transformer::norm::Norm;
use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor, TensorData, activation};

/// Queries, keys and values of one projection side by side, or of three.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one per block")]
pub enum QkvProjection {
    Joint(Projection),
    Apart(SplitQkv),
}

#[derive(Module, Debug)]
pub struct SplitQkv {
    pub q: Projection,
    pub k: Projection,
    pub v: Projection,
}

#[derive(Module, Debug)]
pub struct Attention {
    pub inputs: QkvProjection,
    pub out: Projection,
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    /// What the norms of queries and keys add to the variance.
    pub epsilon: f64,
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_width: usize,
    #[module(skip)]
    pub options: AttentionOptions,
}

/// What differs among families.
#[derive(Debug, Clone)]
pub struct AttentionOptions {
    pub qkv_layout: QkvLayout,
    pub query_key_norm: QueryKeyNorm,
    /// Factor of the scores; `None`: 1/√E.
    pub scale: Option<f64>,
    /// `cap·tanh(score / cap)`
    pub soft_cap: Option<f64>,
}

/// What attention must know of the positions of its columns.
#[derive(Clone)]
pub struct AttentionContext {
    /// Which keys a query may not see, `[B or 1, 1, L, K]`.
    pub hidden: Option<Tensor<4, Bool>>,
    /// Cosine and sine of each column's rotary angles, `[B or 1, 1, L, R/2]`.
    pub rotation: Option<(Tensor<4>, Tensor<4>)>,
}

impl Attention {
    pub fn new(config: &TransformerConfig, std: f64, residual: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        let (d, e) = (config.width, config.head_width());
        let (heads, key_value_heads) = (config.heads, config.key_value_heads());
        let architecture = &config.architecture;
        let BiasSpec { qkv, out, .. } = architecture.biases;
        let mut projection = |outputs: usize| Projection::new(d, outputs, qkv, std, rng, device);
        let inputs = match architecture.fused.qkv {
            Some(_) => QkvProjection::Joint(projection((heads + 2 * key_value_heads) * e)),
            None => QkvProjection::Apart(SplitQkv {
                q: projection(heads * e),
                k: projection(key_value_heads * e),
                v: projection(key_value_heads * e),
            }),
        };
        let out = Projection::new(heads * e, d, out, residual, rng, device);
        let norm = |heads: usize| {
            let width = match architecture.norm.queries_and_keys {
                QueryKeyNorm::None => return None,
                QueryKeyNorm::PerHead => e,
                QueryKeyNorm::Joint => heads * e,
            };
            Some(Norm::new(architecture.norm.kind, width, config.epsilon(), device))
        };
        let (q_norm, k_norm) = (norm(heads), norm(key_value_heads));
        let options = AttentionOptions {
            qkv_layout: architecture.fused.qkv.unwrap_or(QkvLayout::Stacked),
            query_key_norm: architecture.norm.queries_and_keys,
            scale: architecture.attention.scale,
            soft_cap: architecture.attention.soft_cap,
        };
        let epsilon = config.epsilon();
        Self { inputs, out, q_norm, k_norm, epsilon, heads, key_value_heads, head_width: e, options }
    }

    /// Queries `[B, H, L, E]`, keys and values `[B, G, L, E]`, the first two normed.
    fn queries_keys_values(&self, x: Tensor<3>) -> [Tensor<4>; 3] {
        let [b, l, _] = x.dims();
        let (h, g, e) = (self.heads, self.key_value_heads, self.head_width);
        let [q, k, v] = match &self.inputs {
            QkvProjection::Joint(joint) => {
                let qkv = joint.forward(x); // [B, L, (H + 2G)·E]
                match self.options.qkv_layout {
                    QkvLayout::Stacked => [(0, h), (h, g), (h + g, g)]
                        .map(|(first, heads)| qkv.clone().narrow(2, first * e, heads * e).reshape([b, l, heads, e])),
                    QkvLayout::PerHead => {
                        let qkv = qkv.reshape([b, l, h, 3, e]);
                        [0, 1, 2].map(|part| qkv.clone().narrow(3, part, 1).reshape([b, l, h, e]))
                    }
                }
            }
            QkvProjection::Apart(SplitQkv { q, k, v }) => {
                [(q, h), (k, g), (v, g)].map(|(map, heads)| map.forward(x.clone()).reshape([b, l, heads, e]))
            }
        };
        let norm = |norm: &Option<Norm>, x: Tensor<4>| match (norm, self.options.query_key_norm) {
            (None, _) => x,
            (Some(norm), QueryKeyNorm::Joint) => {
                let shape = x.dims();
                norm.forward(x.reshape([b, l, shape[2] * e]), self.epsilon).reshape(shape)
            }
            (Some(norm), _) => norm.forward(x, self.epsilon),
        };
        [norm(&self.q_norm, q), norm(&self.k_norm, k), v].map(|x| x.swap_dims(1, 2))
    }

    /// `x`: `[B, L, D]`; `past` grows by `L` tokens.
    pub fn forward(
        &self,
        x: Tensor<3>,
        context: &AttentionContext,
        past: Option<&mut (Tensor<4>, Tensor<4>)>,
    ) -> Tensor<3> {
        let [b, l, _] = x.dims();
        let (h, g, e) = (self.heads, self.key_value_heads, self.head_width);
        let [mut q, mut k, mut v] = self.queries_keys_values(x);
        if let Some((cos, sin)) = &context.rotation {
            q = rotate(q, cos, sin);
            k = rotate(k, cos, sin);
        }
        if let Some(past) = past {
            if past.0.dims()[2] > 0 {
                k = Tensor::cat(vec![past.0.clone(), k], 2);
                v = Tensor::cat(vec![past.1.clone(), v], 2);
            }
            *past = (k.clone(), v.clone());
        }
        if g < h {
            // each head of keys and values serves h/g neighbouring queries
            let keys = k.dims()[2];
            let repeat = |x: Tensor<4>| {
                x.unsqueeze_dim::<5>(2).expand([b, g, h / g, keys, e]).reshape([b, h, keys, e]) // [B, H, K, E]
            };
            (k, v) = (repeat(k), repeat(v));
        }
        let mut scores = q.matmul(k.swap_dims(2, 3)); // [B, H, L, K]
        scores = match self.options.scale {
            Some(scale) => scores * scale,
            None => scores / (e as f64).sqrt(),
        };
        if let Some(cap) = self.options.soft_cap {
            scores = (scores / cap).tanh() * cap;
        }
        if let Some(hidden) = &context.hidden {
            let shape = scores.dims();
            scores = scores.mask_fill(hidden.clone().expand(shape), -1e9);
        }
        let mixed = activation::softmax(scores, 3).matmul(v); // [B, H, L, E]
        self.out.forward(mixed.swap_dims(1, 2).reshape([b, l, h * e]))
    }
}

/// Rotates the pairs (i, i + R/2) of the first R units of each head. Su et al. 2021, in the half-split layout.
fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    let (half, units) = (cos.dims()[3], x.dims()[3]);
    let (a, b) = (x.clone().narrow(3, 0, half), x.clone().narrow(3, half, half));
    let rotated = a.clone() * cos.clone() - b.clone() * sin.clone();
    let mut parts = vec![rotated, b * cos.clone() + a * sin.clone()];
    if 2 * half < units {
        parts.push(x.narrow(3, 2 * half, units - 2 * half));
    }
    Tensor::cat(parts, 3)
}

/// Which keys a query may not see: those after it, those before its window, and padding. `[B or 1, 1, L, start + L]`.
pub fn hidden_keys(
    b: usize,
    start: usize,
    l: usize,
    padding: Option<&[usize]>,
    window: Option<usize>,
    device: &Device,
) -> Option<Tensor<4, Bool>> {
    let keys = start + l;
    let window = window.filter(|window| *window < keys);
    match padding {
        None if l == 1 && window.is_none() => None,
        None => {
            let after = Tensor::<2, Bool>::tril_mask([l, keys], start as i64, device);
            let hidden = match window {
                // what is `window` or more columns back
                Some(window) => {
                    let within = Tensor::<2, Bool>::tril_mask([l, keys], start as i64 - window as i64, device);
                    after.bool_or(within.bool_not())
                }
                None => after,
            };
            Some(hidden.unsqueeze::<4>())
        }
        Some(padding) => {
            let is_visible = |row: usize, query: usize, key: usize| {
                let column = start + query;
                key <= column && key >= padding[row] && window.is_none_or(|window| key + window > column)
            };
            let is_hidden: Vec<bool> = (0..b)
                .flat_map(|row| (0..l).flat_map(move |q| (0..keys).map(move |k| !is_visible(row, q, k))))
                .collect();
            Some(Tensor::from_data(TensorData::new(is_hidden, [b, 1, l, keys]), device))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_as_wide_with_and_without_padding() {
        let device = Device::flex();
        let (start, l) = (2, 4);
        for window in 1..=6 {
            let visible = |padding: Option<&[usize]>| -> Vec<bool> {
                let hidden = hidden_keys(1, start, l, padding, Some(window), &device).expect("some keys are hidden");
                hidden.bool_not().into_data().try_to_vec().expect("booleans")
            };
            // a query sees itself and the keys before it, `window` in all
            let keys = (0..l).flat_map(|query| (0..start + l).map(move |key| (start + query, key)));
            let expected: Vec<bool> = keys.map(|(query, key)| key <= query && query - key < window).collect();
            assert_eq!(visible(None), expected, "{window}");
            assert_eq!(visible(Some(&[0])), expected, "{window}, padded");
        }
    }
}
