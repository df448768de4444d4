//! Blocks as one operation, in training and in a decoder.

#[cfg(test)]
mod tests;

use crate::architecture::{QkvLayout, ResidualOrder};
use crate::frozen_weight::{FrozenRead, FrozenWeight};
use crate::fused::{self, BlockPlan, BlockTensors, Gpt2Plan, Gpt2Tensors};
use crate::host_tensor::host;
use crate::projection::Projection;
use crate::tensor_view::TensorView;
use crate::transformer::attention::QkvProjection;
use crate::transformer::block::TransformerBlock;
use crate::transformer::mlp::Mlp;
use crate::transformer::norm::Norm;
use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::nn::LayerNorm;
use burn::tensor::Tensor;
use duel_kernels::{
    BlockMlp, BlockOptions, BlockShape, BlockWeights, Decoder, Gpt2Shape, HeadOrder, LinearWeights, N_LINEAR, N_NORM,
    NormWeights, RopeTables, ScoreOptions,
};
use std::sync::Arc;

/// What the columns of a batch are, for the operation that computes all of a block.
pub struct FusedContext {
    /// Padding before each sequence.
    pub padding: Option<Arc<Vec<usize>>>,
    pub recompute: bool,
}

/// What differs among the layers of a model.
#[derive(Debug, Clone)]
pub struct LayerPositions {
    /// Tokens that the layer looks back, itself included; `None`: all.
    pub window: Option<usize>,
    /// `None`: the layer rotates nothing.
    pub rope: Option<Arc<RopeTables>>,
}

/// A block's parameters in the order of [`BlockWeights`]; `None` where it has no such norm or map.
struct BlockParameters<'a> {
    /// Gain, and the bias of a layer norm.
    norms: [Option<(Tensor<1>, Option<Tensor<1>>)>; N_NORM],
    maps: [Option<&'a Projection>; N_LINEAR],
}

impl TransformerBlock {
    /// Whether it is GPT-2's, which has an operation of its own where it has no adapters.
    pub fn is_gpt2(&self) -> bool {
        let is_layer = |norm: &Option<Norm>| matches!(norm, Some(Norm::Layer(_)));
        self.is_plain()
            && is_layer(&self.norm_attention)
            && is_layer(&self.norm_mlp)
            && self.attention.options.qkv_layout == QkvLayout::Stacked
            && matches!(self.attention.inputs, QkvProjection::Joint(_))
            && matches!(self.mlp, Mlp::SquaredRelu(_) | Mlp::GeluTanh(_))
    }

    /// The parameters of a GPT-2 block without adapters, in the order of [`duel_kernels::Gpt2Weights`]; `None` for another
    /// block.
    fn gpt2_parameters(&self) -> Option<[FloatTensor<Dispatch>; 12]> {
        let (Some(Norm::Layer(norm1)), Some(Norm::Layer(norm2))) = (&self.norm_attention, &self.norm_mlp) else {
            return None;
        };
        if !self.is_gpt2() {
            return None;
        }
        let QkvProjection::Joint(qkv) = &self.attention.inputs else { return None };
        let (Mlp::SquaredRelu(mlp) | Mlp::GeluTanh(mlp)) = &self.mlp else { return None };
        let norm = |of: &LayerNorm| Some([of.gamma.val(), of.beta.as_ref()?.val()].map(Tensor::into_dispatch));
        let affine = |of: &Projection| {
            let bias = of.linear.bias.as_ref()?.val();
            (of.lora.is_none() && of.frozen().is_none()).then(|| [of.matrix().into_dispatch(), bias.into_dispatch()])
        };
        let [gain1, bias1] = norm(norm1)?;
        let [qkv, qkv_bias] = affine(qkv)?;
        let [out, out_bias] = affine(&self.attention.out)?;
        let [gain2, bias2] = norm(norm2)?;
        let [up, up_bias] = affine(&mlp.up)?;
        let [down, down_bias] = affine(&mlp.down)?;
        Some([gain1, bias1, qkv, qkv_bias, out, out_bias, gain2, bias2, up, up_bias, down, down_bias])
    }

    /// How the kernels compute the block; `None` where they do not.
    fn options(&self, positions: &LayerPositions) -> Option<BlockOptions> {
        let attention = &self.attention;
        let order = match attention.options.qkv_layout {
            QkvLayout::Stacked => HeadOrder::ByKind,
            QkvLayout::PerHead => HeadOrder::ByHead,
        };
        if order == HeadOrder::ByHead && (attention.q_norm.is_some() || attention.k_norm.is_some()) {
            return None;
        }
        Some(BlockOptions {
            scores: ScoreOptions {
                window: positions.window,
                scale: attention.options.scale.map(|scale| scale as f32),
                soft_cap: attention.options.soft_cap.map(|cap| cap as f32),
            },
            order,
            joint_qkv: matches!(attention.inputs, QkvProjection::Joint(_)),
            mlp: match self.mlp {
                Mlp::Gated(_) => BlockMlp::Gated,
                Mlp::JointGated(_) => BlockMlp::JointGated,
                _ => BlockMlp::Plain,
            },
            activation: self.mlp.activation(),
            parallel: self.residual.order != ResidualOrder::Serial,
            residual_multiplier: self.residual.multiplier as f32,
        })
    }

    fn parameters(&self) -> BlockParameters<'_> {
        let attention = &self.attention;
        let mlp = match self.residual.order {
            ResidualOrder::ParallelSharedNorm => &self.norm_attention,
            _ => &self.norm_mlp,
        };
        let norms = [
            &self.norm_attention,
            mlp,
            &self.norm_attention_out,
            &self.norm_mlp_out,
            &attention.q_norm,
            &attention.k_norm,
        ];
        let mut maps = [None; N_LINEAR];
        for (name, map) in self.projections() {
            let index = match name {
                "attention.qkv" | "attention.q" => 0,
                "attention.k" => 1,
                "attention.v" => 2,
                "attention.out" => 3,
                "mlp.gate" | "mlp.gate_up" => 4,
                "mlp.up" => 5,
                _ => 6,
            };
            maps[index] = Some(map);
        }
        BlockParameters { norms: norms.map(|norm| norm.as_ref().map(gain_and_bias)), maps }
    }

    /// Packs the block for a decoder; `None` where that computes no such block.
    pub fn pack(&self, decoder: &mut Decoder, positions: &LayerPositions) -> Option<()> {
        let options = self.options(positions)?;
        let BlockParameters { norms, maps } = self.parameters();
        let norms = norms.map(|norm| match norm {
            Some((gain, bias)) => [host(gain), bias.map(host).unwrap_or_default()],
            None => [vec![], vec![]],
        });
        let matrices = maps.map(|map| map.map(|map| (map.frozen().map(FrozenWeight::read), map)));
        let in_memory = matrices.each_ref().map(|map| match map {
            Some((None, map)) => TensorView::new(map.matrix()), // [in, out]
            _ => None,
        });
        let is_missing = |i: usize| matches!(matrices[i], Some((None, _))) && in_memory[i].is_none();
        if (0..matrices.len()).any(is_missing) {
            return None;
        }
        let small = maps.map(|map| {
            let bias = map.and_then(|map| map.linear.bias.as_ref()).map(|bias| host(bias.val()));
            let lora = map.and_then(|map| map.lora.as_ref());
            let [a, b] = lora.map_or([vec![], vec![]], |lora| [host(lora.a.val()), host(lora.b.val())]);
            (bias.unwrap_or_default(), a, b, lora.map_or(0.0, |lora| lora.scale as f32))
        });
        let map = |i: usize| {
            let frozen = matrices[i].as_ref().and_then(|(frozen, _)| frozen.as_ref()).map(FrozenRead::matrix);
            let (bias, a, b, scale) = &small[i];
            LinearWeights {
                matrix: frozen.or(in_memory[i].as_ref().map(|view| view.values().into())).unwrap_or_default(),
                bias,
                a,
                b,
                scale: *scale,
            }
        };
        let weights = BlockWeights {
            norms: norms.each_ref().map(|[gain, bias]| NormWeights { gain, bias }),
            maps: std::array::from_fn(map),
        };
        decoder.push(options, &weights, positions.rope.clone());
        Some(())
    }

    /// The whole block in one operation, where there is one for it.
    pub fn fused(&self, x: &Tensor<3>, context: &FusedContext, positions: &LayerPositions) -> Option<Tensor<3>> {
        let is_plain = positions.window.is_none() && positions.rope.is_none();
        if let Some(parameters) = self.gpt2_parameters().filter(|_| is_plain) {
            return self.fused_gpt2(x, context, parameters);
        }
        let options = self.options(positions)?;
        let BlockParameters { norms, maps } = self.parameters();
        let [sequences, columns, width] = x.dims();
        let shape = BlockShape {
            sequences,
            columns,
            width,
            heads: self.attention.heads,
            key_value_heads: self.attention.key_value_heads,
            head_width: self.attention.head_width,
            inner: self.mlp.inner(),
            epsilon: self.epsilon as f32,
            options,
        };
        let plan = BlockPlan {
            shape,
            scales: maps.map(|map| map.and_then(|map| map.lora.as_ref()).map_or(0.0, |lora| lora.scale as f32)),
            frozen: maps.map(|map| map.and_then(|map| map.frozen().cloned())),
            rope: positions.rope.clone(),
            padding: context.padding.clone(),
            recompute: context.recompute,
        };
        let nothing = || fused::nothing(&x.device()).into_dispatch();
        let vector = |x: Option<Tensor<1>>| x.map_or_else(nothing, Tensor::into_dispatch);
        let matrix = |x: Option<Tensor<2>>| x.map_or_else(nothing, Tensor::into_dispatch);
        let norms = norms.into_iter().flat_map(|norm| match norm {
            Some((gain, bias)) => [vector(Some(gain)), vector(bias)],
            None => [nothing(), nothing()],
        });
        let maps = maps.into_iter().flat_map(|map| {
            let lora = map.and_then(|map| map.lora.as_ref());
            [
                matrix(map.map(|map| map.linear.weight.val())),
                vector(map.and_then(|map| map.linear.bias.as_ref()).map(|bias| bias.val())),
                matrix(lora.map(|lora| lora.a.val())),
                matrix(lora.map(|lora| lora.b.val())),
            ]
        });
        let parts: Vec<FloatTensor<Dispatch>> =
            std::iter::once(x.clone().into_dispatch()).chain(norms).chain(maps).collect();
        Some(fused::block(BlockTensors::from_parts(parts.try_into().ok()?), plan))
    }

    fn fused_gpt2(
        &self,
        x: &Tensor<3>,
        context: &FusedContext,
        parameters: [FloatTensor<Dispatch>; 12],
    ) -> Option<Tensor<3>> {
        let [sequences, columns, width] = x.dims();
        let shape = Gpt2Shape {
            sequences,
            columns,
            width,
            heads: self.attention.heads,
            inner: self.mlp.inner(),
            activation: self.mlp.activation(),
            epsilon: self.epsilon as f32,
        };
        let parts: Vec<FloatTensor<Dispatch>> = std::iter::once(x.clone().into_dispatch()).chain(parameters).collect();
        let plan = Gpt2Plan { shape, padding: context.padding.clone(), recompute: context.recompute };
        Some(fused::gpt2(Gpt2Tensors::from_parts(parts.try_into().ok()?), plan))
    }
}

/// A norm's gain, and a layer norm's bias.
pub fn gain_and_bias(norm: &Norm) -> (Tensor<1>, Option<Tensor<1>>) {
    match norm {
        Norm::Layer(norm) => {
            let gain = norm.gamma.val();
            let bias = norm.beta.as_ref().map_or_else(|| gain.zeros_like(), |bias| bias.val());
            (gain, Some(bias))
        }
        Norm::Rms(norm) => (norm.gamma.val(), None),
        Norm::RmsOnePlus(norm) => (norm.gamma.val() + 1.0, None),
    }
}
