//! Blocks as one operation, in training and in a decoder, where the kernels have one for them.

use crate::architecture::{Activation, QkvLayout};
use crate::fused::{self, BlockPlan, BlockTensors, LlamaPlan, LlamaTensors};
use crate::host_tensor::host;
use crate::projection::Projection;
use crate::transformer::attention::QkvProjection;
use crate::transformer::block::TransformerBlock;
use crate::transformer::mlp::Mlp;
use crate::transformer::norm::Norm;
use burn::backend::Dispatch;
use burn::backend::tensor::FloatTensor;
use burn::nn::LayerNorm;
use burn::tensor::Tensor;
use duel_kernels::{BlockShape, Decoder, DecoderBlock, LinearWeights, LlamaShape, LlamaWeights, N_LINEAR};
use std::sync::Arc;

/// What the columns of a batch are, for the operation that computes all of a block.
pub struct FusedContext {
    /// Padding before each sequence.
    pub padding: Option<Arc<Vec<usize>>>,
    pub recompute: bool,
    /// `cos` and `sin` of the rotary angles, `[context, E/2]` each.
    pub tables: Option<[Arc<Vec<f32>>; 2]>,
}

/// A parameter of a block.
enum Parameter {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

impl Parameter {
    fn host(self) -> Vec<f32> {
        match self {
            Self::Vector(x) => host(x),
            Self::Matrix(x) => host(x),
        }
    }

    fn into_dispatch(self) -> FloatTensor<Dispatch> {
        match self {
            Self::Vector(x) => x.into_dispatch(),
            Self::Matrix(x) => x.into_dispatch(),
        }
    }
}

impl TransformerBlock {
    /// The parameters of a GPT-2 block without adapters, in the order of [`duel_kernels::BlockWeights`]; `None` for another block.
    fn gpt2_parameters(&self) -> Option<[Parameter; 12]> {
        let (Some(Norm::Layer(norm1)), Some(Norm::Layer(norm2))) = (&self.norm_attention, &self.norm_mlp) else {
            return None;
        };
        if !self.is_plain() || self.attention.options.qkv_layout != QkvLayout::Stacked {
            return None;
        }
        let QkvProjection::Joint(qkv) = &self.attention.inputs else { return None };
        let (Mlp::SquaredRelu(mlp) | Mlp::GeluTanh(mlp)) = &self.mlp else { return None };
        let norm = |of: &LayerNorm| Some([of.gamma.val(), of.beta.as_ref()?.val()].map(Parameter::Vector));
        let affine = |of: &Projection| {
            let bias = of.linear.bias.as_ref()?.val();
            of.lora.is_none().then(|| [Parameter::Matrix(of.matrix()), Parameter::Vector(bias)])
        };
        let [gain1, bias1] = norm(norm1)?;
        let [qkv, qkv_bias] = affine(qkv)?;
        let [out, out_bias] = affine(&self.attention.out)?;
        let [gain2, bias2] = norm(norm2)?;
        let [up, up_bias] = affine(&mlp.up)?;
        let [down, down_bias] = affine(&mlp.down)?;
        Some([gain1, bias1, qkv, qkv_bias, out, out_bias, gain2, bias2, up, up_bias, down, down_bias])
    }

    /// Whether it is a GPT-2 block without adapters.
    pub fn is_plain_gpt2(&self) -> bool {
        self.gpt2_parameters().is_some()
    }

    /// The gains and the projections of a Llama block, which may have biases on queries, keys and values alone; `None` for
    /// another block.
    fn llama_parts(&self) -> Option<([Tensor<1>; 2], [&Projection; N_LINEAR])> {
        let (Some(Norm::Rms(norm1)), Some(Norm::Rms(norm2))) = (&self.norm_attention, &self.norm_mlp) else {
            return None;
        };
        if !self.is_plain() || self.mlp.activation() != Activation::Silu {
            return None;
        }
        let (QkvProjection::Apart(_), Mlp::Gated(_)) = (&self.attention.inputs, &self.mlp) else { return None };
        let [q, k, v, out, gate, up, down] = self.projections()[..] else { return None };
        let maps = [q, k, v, out, gate, up, down].map(|(_, map)| map);
        let has_bias = |map: &&Projection| map.linear.bias.is_some();
        let biases_fit =
            !maps[3..].iter().any(has_bias) && [0, 3].contains(&maps[..3].iter().filter(|map| has_bias(map)).count());
        biases_fit.then(|| ([norm1, norm2].map(|norm| norm.gamma.val()), maps))
    }

    /// Packs the block for a decoder; `None` where that computes no such block.
    pub fn pack(&self, decoder: &mut Decoder) -> Option<()> {
        if let Some(parameters) = self.gpt2_parameters() {
            let parameters = parameters.map(Parameter::host);
            decoder.push(&DecoderBlock::Gpt2(parameters.each_ref().map(|w| w.as_slice()).into()));
            return Some(());
        }
        let (norms, maps) = self.llama_parts()?;
        let norms = norms.map(host);
        let biases = maps[..3].iter().filter_map(|map| map.linear.bias.as_ref());
        let qkv_bias: Vec<f32> = biases.flat_map(|bias| host(bias.val())).collect();
        let decoded = maps.map(|map| map.mapped().map(|mapped| mapped.read())); // [out, in]
        let in_memory = maps.map(|map| match map.mapped() {
            Some(_) => vec![],
            None => host(map.matrix()), // [in, out]
        });
        let adapters = maps.map(|map| map.lora.as_ref().map(|lora| [host(lora.a.val()), host(lora.b.val())]));
        let maps = std::array::from_fn(|i| LinearWeights {
            weight: decoded[i].as_deref().unwrap_or(&in_memory[i]),
            turned: decoded[i].is_some(),
            a: adapters[i].as_ref().map_or(&[], |[a, _]| a),
            b: adapters[i].as_ref().map_or(&[], |[_, b]| b),
        });
        decoder.push(&DecoderBlock::Llama {
            weights: LlamaWeights { norms: norms.each_ref().map(|w| w.as_slice()), maps },
            qkv_bias: (!qkv_bias.is_empty()).then_some(&qkv_bias),
        });
        Some(())
    }

    /// The whole block in one operation, where there is one for it.
    pub fn fused(&self, x: &Tensor<3>, context: &FusedContext) -> Option<Tensor<3>> {
        match &context.tables {
            Some(tables) => self.fused_llama(x, context, tables),
            None => self.fused_gpt2(x, context),
        }
    }

    /// A Llama block without biases, whose projections have adapters of one rank and scale, or none.
    fn fused_llama(&self, x: &Tensor<3>, context: &FusedContext, [cos, sin]: &[Arc<Vec<f32>>; 2]) -> Option<Tensor<3>> {
        let ([norm1, norm2], maps) = self.llama_parts()?;
        let adapter = |map: &Projection| map.lora.as_ref().map(|lora| (lora.a.dims()[1], lora.scale));
        let first = adapter(maps[0]);
        if maps.iter().any(|map| map.linear.bias.is_some() || adapter(map) != first) {
            return None;
        }
        let (rank, scale) = first.unwrap_or((0, 0.0));
        let [sequences, columns, width] = x.dims();
        let shape = LlamaShape {
            sequences,
            columns,
            width,
            heads: self.attention.heads,
            key_value_heads: self.attention.key_value_heads,
            head_width: self.attention.head_width,
            inner: maps[4].dims()[1],
            epsilon: self.epsilon as f32,
            rank,
            scale: scale as f32,
        };
        let mapped: Vec<_> = maps.iter().filter_map(|map| map.mapped().cloned()).collect();
        if !mapped.is_empty() && mapped.len() < N_LINEAR {
            return None;
        }
        let none = Tensor::<2>::zeros([1, 1], &x.device());
        let adapters = maps.iter().flat_map(|map| match &map.lora {
            Some(lora) => [lora.a.val(), lora.b.val()],
            None => [none.clone(), none.clone()],
        });
        let matrices = maps.iter().map(|map| map.linear.weight.val()).chain(adapters);
        let [x, norm1, norm2] = [x.clone().into_dispatch(), norm1.into_dispatch(), norm2.into_dispatch()];
        let parts: Vec<FloatTensor<Dispatch>> =
            [x, norm1, norm2].into_iter().chain(matrices.map(Tensor::into_dispatch)).collect();
        let plan = LlamaPlan {
            shape,
            mapped: mapped.try_into().ok(),
            cos: cos.clone(),
            sin: sin.clone(),
            padding: context.padding.clone(),
            recompute: context.recompute,
        };
        Some(fused::llama(LlamaTensors::from_parts(parts.try_into().ok()?), plan))
    }

    fn fused_gpt2(&self, x: &Tensor<3>, context: &FusedContext) -> Option<Tensor<3>> {
        let parameters = self.gpt2_parameters()?;
        let [sequences, columns, width] = x.dims();
        let Parameter::Matrix(up) = &parameters[8] else { return None };
        let shape = BlockShape {
            sequences,
            columns,
            width,
            heads: self.attention.heads,
            inner: up.dims()[1],
            activation: self.mlp.activation(),
            epsilon: self.epsilon as f32,
        };
        let parameters = parameters.map(Parameter::into_dispatch);
        let parts: Vec<FloatTensor<Dispatch>> = std::iter::once(x.clone().into_dispatch()).chain(parameters).collect();
        let plan = BlockPlan { shape, padding: context.padding.clone(), recompute: context.recompute };
        Some(fused::block(BlockTensors::from_parts(parts.try_into().ok()?), plan))
    }
}
