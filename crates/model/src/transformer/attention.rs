//! Causal attention with grouped queries, composed of burn's operations.

use crate::architecture::BiasSpec;
use crate::config::TransformerConfig;
use crate::init::Init;
use crate::projection::Projection;
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
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_width: usize,
}

/// What attention must know of the positions of its columns.
pub struct AttentionContext {
    /// Which keys a query may not see, `[B or 1, 1, L, K]`.
    pub hidden: Option<Tensor<4, Bool>>,
    /// Cosine and sine of each column's rotary angles, `[B or 1, 1, L, E/2]`.
    pub rotation: Option<(Tensor<4>, Tensor<4>)>,
}

impl Attention {
    pub fn new(config: &TransformerConfig, std: f64, residual: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        let (d, e) = (config.width, config.head_width());
        let (heads, key_value_heads) = (config.heads, config.key_value_heads());
        let BiasSpec { qkv, out, .. } = config.architecture.biases;
        let mut projection = |outputs: usize| Projection::new(d, outputs, qkv, std, rng, device);
        let inputs = match config.architecture.fused.qkv {
            true => QkvProjection::Joint(projection(3 * d)),
            false => QkvProjection::Apart(SplitQkv {
                q: projection(heads * e),
                k: projection(key_value_heads * e),
                v: projection(key_value_heads * e),
            }),
        };
        let out = Projection::new(heads * e, d, out, residual, rng, device);
        Self { inputs, out, heads, key_value_heads, head_width: e }
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
        let (mut q, mut k, mut v) = match &self.inputs {
            QkvProjection::Joint(joint) => {
                let qkv = joint.forward(x).reshape([b, l, 3, h, e]);
                let part = |i: usize| qkv.clone().narrow(2, i, 1).reshape([b, l, h, e]).swap_dims(1, 2);
                (part(0), part(1), part(2)) // [B, H, L, E]
            }
            QkvProjection::Apart(apart) => {
                let split = |x: Tensor<3>, heads: usize| x.reshape([b, l, heads, e]).swap_dims(1, 2);
                (
                    split(apart.q.forward(x.clone()), h),
                    split(apart.k.forward(x.clone()), g),
                    split(apart.v.forward(x), g),
                )
            }
        };
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
        let mut scores = q.matmul(k.swap_dims(2, 3)) / (e as f64).sqrt(); // [B, H, L, K]
        if let Some(hidden) = &context.hidden {
            let shape = scores.dims();
            scores = scores.mask_fill(hidden.clone().expand(shape), -1e9);
        }
        let mixed = activation::softmax(scores, 3).matmul(v); // [B, H, L, E]
        self.out.forward(mixed.swap_dims(1, 2).reshape([b, l, h * e]))
    }
}

/// Rotates the pairs (i, i + E/2) of each head. Su et al. 2021, in the half-split layout.
fn rotate(x: Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let rotated = a.clone() * cos.clone() - b.clone() * sin.clone();
    Tensor::cat(vec![rotated, b * cos.clone() + a * sin.clone()], 3)
}

/// Which keys a query may not see: those after it, and padding. `[B or 1, 1, L, start + L]`.
pub fn hidden_keys(
    b: usize,
    start: usize,
    l: usize,
    padding: Option<&[usize]>,
    device: &Device,
) -> Option<Tensor<4, Bool>> {
    let keys = start + l;
    match padding {
        None if l == 1 => None,
        None => Some(Tensor::<2, Bool>::tril_mask([l, keys], start as i64, device).unsqueeze::<4>()),
        Some(padding) => {
            let is_visible = |row: usize, query: usize, key: usize| key <= start + query && key >= padding[row];
            let is_hidden: Vec<bool> = (0..b)
                .flat_map(|row| (0..l).flat_map(move |q| (0..keys).map(move |k| !is_visible(row, q, k))))
                .collect();
            Some(Tensor::from_data(TensorData::new(is_hidden, [b, 1, l, keys]), device))
        }
    }
}
