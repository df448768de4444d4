//! A block of composed operations, which trains and reads on any device.

use crate::architecture::{Architecture, NormPlacement, NormSpec, ResidualOrder, ResidualSpec};
use crate::config::TransformerConfig;
use crate::init::Init;
use crate::projection::Projection;
use crate::transformer::attention::{Attention, AttentionContext, QkvProjection, SplitQkv};
use crate::transformer::mlp::Mlp;
use crate::transformer::norm::Norm;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

/// Serial: `x₁ = x + m·attention(norm(x))`, `y = x₁ + m·mlp(norm(x₁))`; parallel: `y = x + attention(norm(x)) + mlp(norm(x))`.
/// Norms stand before attention and MLP, after them, or both.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    pub epsilon: f64,
    pub norm_attention: Option<Norm>,
    pub attention: Attention,
    /// Of what attention adds.
    pub norm_attention_out: Option<Norm>,
    pub norm_mlp: Option<Norm>,
    pub mlp: Mlp,
    /// Of what the MLP adds.
    pub norm_mlp_out: Option<Norm>,
    #[module(skip)]
    pub residual: ResidualSpec,
}

impl TransformerBlock {
    pub fn new(config: &TransformerConfig, rng: &mut Init<'_>, device: &Device) -> Self {
        let std = 0.5 / (config.width as f64).sqrt();
        let residual = std / (2.0 * config.layers as f64).sqrt(); // GPT-2: residual projections start smaller
        let Architecture { norm: NormSpec { kind, placement, .. }, residual: spec, .. } = &config.architecture;
        let norm = |is_there: bool| is_there.then(|| Norm::new(*kind, config.width, config.epsilon(), device));
        let (before, after) = (*placement != NormPlacement::After, *placement != NormPlacement::Before);
        Self {
            epsilon: config.epsilon(),
            norm_attention: norm(before),
            attention: Attention::new(config, std, residual, rng, device),
            norm_attention_out: norm(after),
            norm_mlp: norm(before && spec.order != ResidualOrder::ParallelSharedNorm),
            mlp: Mlp::new(config, std, residual, rng, device),
            norm_mlp_out: norm(after),
            residual: spec.clone(),
        }
    }

    /// `[B, L, D]` to `[B, L, D]`; `past` grows by `L` tokens.
    pub fn forward(
        &self,
        x: Tensor<3>,
        context: &AttentionContext,
        past: Option<&mut (Tensor<4>, Tensor<4>)>,
    ) -> Tensor<3> {
        let norm = |norm: &Option<Norm>, x: Tensor<3>| match norm {
            Some(norm) => norm.forward(x, self.epsilon),
            None => x,
        };
        let scaled = |x: Tensor<3>| if self.residual.multiplier == 1.0 { x } else { x * self.residual.multiplier };
        let input = norm(&self.norm_attention, x.clone());
        let attention = self.attention.forward(input.clone(), context, past);
        let attention = scaled(norm(&self.norm_attention_out, attention));
        let (x, input) = match self.residual.order {
            ResidualOrder::Serial => {
                let x = x + attention;
                (x.clone(), norm(&self.norm_mlp, x))
            }
            ResidualOrder::Parallel => (x.clone() + attention, norm(&self.norm_mlp, x)),
            ResidualOrder::ParallelSharedNorm => (x + attention, input),
        };
        x + scaled(norm(&self.norm_mlp_out, self.mlp.forward(input)))
    }

    /// Whether it has none of the options beyond GPT-2's and Llama's.
    pub fn is_plain(&self) -> bool {
        let Attention { q_norm, k_norm, options, .. } = &self.attention;
        q_norm.is_none()
            && k_norm.is_none()
            && options.scale.is_none()
            && options.soft_cap.is_none()
            && self.norm_attention_out.is_none()
            && self.norm_mlp_out.is_none()
            && self.residual.order == ResidualOrder::Serial
            && self.residual.multiplier == 1.0
    }

    /// All projections, by the names that follow `blocks.N`.
    pub fn projections(&self) -> Vec<(&'static str, &Projection)> {
        let attention = match &self.attention.inputs {
            QkvProjection::Joint(joint) => vec![("attention.qkv", joint)],
            QkvProjection::Apart(SplitQkv { q, k, v }) => {
                vec![("attention.q", q), ("attention.k", k), ("attention.v", v)]
            }
        };
        [attention, vec![("attention.out", &self.attention.out)], self.mlp.projections()].concat()
    }

    /// The block with each projection replaced, in the order of [`Self::projections`].
    pub fn map_projections(mut self, mut f: impl FnMut(&str, Projection) -> Projection) -> Self {
        let names: Vec<&str> = self.projections().into_iter().map(|(name, _)| name).collect();
        let mut slots: Vec<&mut Projection> = match &mut self.attention.inputs {
            QkvProjection::Joint(joint) => vec![joint],
            QkvProjection::Apart(SplitQkv { q, k, v }) => vec![q, k, v],
        };
        slots.push(&mut self.attention.out);
        slots.extend(self.mlp.projections_mut());
        names.into_iter().zip(slots).for_each(|(name, slot)| *slot = f(name, slot.clone()));
        self
    }
}
