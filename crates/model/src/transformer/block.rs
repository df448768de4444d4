//! A block of composed operations, which trains and reads on any device.

use crate::config::TransformerConfig;
use crate::init::Init;
use crate::projection::Projection;
use crate::transformer::attention::{Attention, AttentionContext, QkvProjection, SplitQkv};
use crate::transformer::mlp::Mlp;
use crate::transformer::norm::Norm;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

/// `x₁ = x + attention(norm(x))`, `y = x₁ + mlp(norm(x₁))`
#[derive(Module, Debug)]
pub struct TransformerBlock {
    pub epsilon: f64,
    pub norm_attention: Norm,
    pub attention: Attention,
    pub norm_mlp: Norm,
    pub mlp: Mlp,
}

impl TransformerBlock {
    pub fn new(config: &TransformerConfig, rng: &mut Init<'_>, device: &Device) -> Self {
        let std = 0.5 / (config.width as f64).sqrt();
        let residual = std / (2.0 * config.layers as f64).sqrt(); // GPT-2: residual projections start smaller
        Self {
            epsilon: config.epsilon(),
            norm_attention: Norm::new(config, device),
            attention: Attention::new(config, std, residual, rng, device),
            norm_mlp: Norm::new(config, device),
            mlp: Mlp::new(config, std, residual, rng, device),
        }
    }

    pub fn forward(
        &self,
        x: Tensor<3>,
        context: &AttentionContext,
        past: Option<&mut (Tensor<4>, Tensor<4>)>,
    ) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.norm_attention.forward(x, self.epsilon), context, past);
        x.clone() + self.mlp.forward(self.norm_mlp.forward(x, self.epsilon)) // [B, L, D]
    }

    /// All projections, by the names that follow `blocks.N`.
    pub fn projections(&self) -> Vec<(&'static str, &Projection)> {
        let attention = match &self.attention.inputs {
            QkvProjection::Joint(joint) => vec![("attention.qkv", joint)],
            QkvProjection::Apart(SplitQkv { q, k, v }) => {
                vec![("attention.q", q), ("attention.k", k), ("attention.v", v)]
            }
        };
        let mlp = match &self.mlp {
            Mlp::SquaredRelu(m) | Mlp::GeluTanh(m) => vec![("mlp.up", &m.up), ("mlp.down", &m.down)],
            Mlp::Gated(m) => vec![("mlp.gate", &m.gate), ("mlp.up", &m.up), ("mlp.down", &m.down)],
        };
        [attention, vec![("attention.out", &self.attention.out)], mlp].concat()
    }

    /// The block with each projection replaced, in the order of [`Self::projections`].
    pub fn map_projections(mut self, mut f: impl FnMut(&str, Projection) -> Projection) -> Self {
        let names: Vec<&str> = self.projections().into_iter().map(|(name, _)| name).collect();
        let mut slots: Vec<&mut Projection> = match &mut self.attention.inputs {
            QkvProjection::Joint(joint) => vec![joint],
            QkvProjection::Apart(SplitQkv { q, k, v }) => vec![q, k, v],
        };
        slots.push(&mut self.attention.out);
        match &mut self.mlp {
            Mlp::SquaredRelu(m) | Mlp::GeluTanh(m) => slots.extend([&mut m.up, &mut m.down]),
            Mlp::Gated(m) => slots.extend([&mut m.gate, &mut m.up, &mut m.down]),
        }
        names.into_iter().zip(slots).for_each(|(name, slot)| *slot = f(name, slot.clone()));
        self
    }
}
