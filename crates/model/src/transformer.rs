//! A decoder-only transformer, pre-norm and causal, in two families: GPT-2 (Radford et al. 2019) and Llama
//! (Touvron et al. 2023). [`TransformerConfig`] says which.
//!
//! Letters: `B` rows, `L` tokens, `K` tokens with those of the cache, `D` width, `H` heads, `G` heads of keys
//! and values, `E` units of a head, `V` vocabulary.

use crate::config::{Activation, Family, TransformerConfig};
use crate::counter::count;
use crate::fused::{self, BlockPlan, BlockTensors, LlamaPlan, LlamaTensors, LogpPlan};
use crate::huggingface::canonical_name;
use crate::projection::{Lora, Projection};
use crate::shelf::MmapMatrix;
use crate::tokens::Tokens;
use crate::weights::{self, Init, host, normal};
use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
use duel_kernels::{
    BlockShape, Decoder, DecoderBlock, DecoderMlp, DecoderParts, DecoderPositions, LinearWeights, LlamaShape,
    LlamaWeights, MAPS,
};
use duel_spec::{ScorePooling, seeds::Rng};
use std::collections::HashMap;
use std::sync::Arc;

/// Keys and values of every block for the tokens read so far, each `[B, G, K, E]`.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<(Tensor<4>, Tensor<4>)>,
    /// Columns read.
    columns: usize,
    /// Padded columns of each row.
    left: Option<Vec<usize>>,
}

impl KvCache {
    /// The cache of some rows, in the given order; a row may be taken more than once.
    pub fn select(&self, rows: &[usize]) -> Self {
        let Some((first, _)) = self.layers.first() else { return self.clone() };
        let index: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), &first.device());
        let pick = |x: &Tensor<4>| x.clone().select(0, index.clone());
        Self {
            layers: self.layers.iter().map(|(k, v)| (pick(k), pick(v))).collect(),
            columns: self.columns,
            left: self.left.as_ref().map(|left| rows.iter().map(|&row| left[row]).collect()),
        }
    }
}

#[derive(Module, Debug)]
enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    fn new(config: &TransformerConfig, device: &Device) -> Self {
        match config.family {
            Family::Gpt2 { epsilon, .. } => {
                Self::Layer(LayerNormConfig::new(config.width).with_epsilon(epsilon).init(device))
            }
            Family::Llama { epsilon, .. } => {
                Self::Rms(RmsNormConfig::new(config.width).with_epsilon(epsilon).init(device))
            }
        }
    }

    /// `epsilon` is the one that it was made with, which burn keeps to itself.
    fn forward(&self, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        match self {
            Self::Layer(LayerNorm { gamma, beta: Some(beta), .. }) if fused::is_supported(&x) => {
                fused::layer_norm(x, gamma.val(), beta.val(), epsilon)
            }
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }
}

/// Queries, keys and values of one projection side by side (GPT-2), or of three (Llama).
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one or two a block")]
enum QkvProjection {
    Joint(Projection),
    Apart(SplitQkv),
}

#[derive(Module, Debug)]
struct SplitQkv {
    q: Projection,
    k: Projection,
    v: Projection,
}

#[derive(Module, Debug)]
struct Attention {
    inputs: QkvProjection,
    out: Projection,
    heads: usize,
    key_value_heads: usize,
    head_width: usize,
}

/// What attention must know of where its columns stand.
struct AttentionContext {
    /// Which keys a query may not see, `[B or 1, 1, L, K]`.
    hidden: Option<Tensor<4, Bool>>,
    /// Cosine and sine of each column's rotary angles, `[B or 1, 1, L, E/2]`.
    rotation: Option<(Tensor<4>, Tensor<4>)>,
}

impl Attention {
    fn new(config: &TransformerConfig, std: f64, residual: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        let (d, e) = (config.width, config.head_width());
        let (heads, key_value_heads) = (config.heads, config.key_value_heads());
        let bias = matches!(config.family, Family::Gpt2 { .. });
        let mut projection = |outputs: usize| Projection::new(d, outputs, bias, std, rng, device);
        let inputs = match config.family {
            Family::Gpt2 { .. } => QkvProjection::Joint(projection(3 * d)),
            Family::Llama { .. } => QkvProjection::Apart(SplitQkv {
                q: projection(heads * e),
                k: projection(key_value_heads * e),
                v: projection(key_value_heads * e),
            }),
        };
        let out = Projection::new(heads * e, d, bias, residual, rng, device);
        Self { inputs, out, heads, key_value_heads, head_width: e }
    }

    /// `x`: `[B, L, D]`; `past` grows by `L` tokens.
    fn forward(&self, x: Tensor<3>, place: &AttentionContext, past: Option<&mut (Tensor<4>, Tensor<4>)>) -> Tensor<3> {
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
        if let Some((cos, sin)) = &place.rotation {
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
        if let Some(hidden) = &place.hidden {
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
    let turned = a.clone() * cos.clone() - b.clone() * sin.clone();
    Tensor::cat(vec![turned, b * cos.clone() + a * sin.clone()], 3)
}

#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one or two a block")]
enum Mlp {
    SquaredRelu(PlainMlp),
    GeluTanh(PlainMlp),
    Gated(GatedMlp),
}

#[derive(Module, Debug)]
struct PlainMlp {
    up: Projection,
    down: Projection,
}

#[derive(Module, Debug)]
struct GatedMlp {
    gate: Projection,
    up: Projection,
    down: Projection,
}

impl Mlp {
    fn new(config: &TransformerConfig, std: f64, residual: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        let d = config.width;
        match config.family {
            Family::Gpt2 { activation, inner, .. } => {
                let up = Projection::new(d, inner, true, std, rng, device);
                let plain = PlainMlp { up, down: Projection::new(inner, d, true, residual, rng, device) };
                match activation {
                    Activation::SquaredRelu => Self::SquaredRelu(plain),
                    Activation::GeluTanh => Self::GeluTanh(plain),
                }
            }
            Family::Llama { inner, .. } => Self::Gated(GatedMlp {
                gate: Projection::new(d, inner, false, std, rng, device),
                up: Projection::new(d, inner, false, std, rng, device),
                down: Projection::new(inner, d, false, residual, rng, device),
            }),
        }
    }

    /// The bend, where the MLP is not gated.
    fn activation(&self) -> Option<duel_kernels::Activation> {
        match self {
            Self::SquaredRelu(_) => Some(duel_kernels::Activation::SquaredRelu),
            Self::GeluTanh(_) => Some(duel_kernels::Activation::GeluTanh),
            Self::Gated(_) => None,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::SquaredRelu(m) => m.down.forward(activation::relu(m.up.forward(x)).square()),
            Self::GeluTanh(m) => m.down.forward(activation::gelu_approximate(m.up.forward(x))),
            Self::Gated(m) => m.down.forward(activation::silu(m.gate.forward(x.clone())) * m.up.forward(x)),
        }
    }
}

#[derive(Module, Debug)]
struct TransformerBlock {
    epsilon: f64,
    norm_attention: Norm,
    attention: Attention,
    norm_mlp: Norm,
    mlp: Mlp,
}

impl TransformerBlock {
    fn new(config: &TransformerConfig, rng: &mut Init<'_>, device: &Device) -> Self {
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

    fn forward(&self, x: Tensor<3>, place: &AttentionContext, past: Option<&mut (Tensor<4>, Tensor<4>)>) -> Tensor<3> {
        let x = x.clone() + self.attention.forward(self.norm_attention.forward(x, self.epsilon), place, past);
        x.clone() + self.mlp.forward(self.norm_mlp.forward(x, self.epsilon)) // [B, L, D]
    }

    /// What it is made of, where it is GPT-2's and wears no adapter: what fused operations can read.
    fn gpt2(&self) -> Option<Gpt2Parts> {
        let (Norm::Layer(norm1), Norm::Layer(norm2)) = (&self.norm_attention, &self.norm_mlp) else { return None };
        let QkvProjection::Joint(qkv) = &self.attention.inputs else { return None };
        let (Mlp::SquaredRelu(mlp) | Mlp::GeluTanh(mlp)) = &self.mlp else { return None };
        let norm = |of: &LayerNorm| Some((of.gamma.val(), of.beta.as_ref()?.val()));
        let affine = |of: &Projection| {
            let bias = of.linear.bias.as_ref()?.val();
            of.lora.is_none().then(|| (of.matrix(), bias))
        };
        Some(Gpt2Parts {
            norm1: norm(norm1)?,
            qkv: affine(qkv)?,
            out: affine(&self.attention.out)?,
            norm2: norm(norm2)?,
            up: affine(&mlp.up)?,
            down: affine(&mlp.down)?,
            activation: self.mlp.activation()?,
        })
    }

    /// The projections of a Llama block; none of another.
    fn llama_linears(&self) -> Vec<&Projection> {
        match (&self.attention.inputs, &self.mlp) {
            (QkvProjection::Apart(SplitQkv { q, k, v }), Mlp::Gated(GatedMlp { gate, up, down })) => {
                vec![q, k, v, &self.attention.out, gate, up, down]
            }
            _ => vec![],
        }
    }

    /// All projections.
    fn linears(&self) -> Vec<&Projection> {
        let attention = match &self.attention.inputs {
            QkvProjection::Joint(joint) => vec![joint],
            QkvProjection::Apart(SplitQkv { q, k, v }) => vec![q, k, v],
        };
        let mlp = match &self.mlp {
            Mlp::SquaredRelu(m) | Mlp::GeluTanh(m) => vec![&m.up, &m.down],
            Mlp::Gated(m) => vec![&m.gate, &m.up, &m.down],
        };
        [attention, vec![&self.attention.out], mlp].concat()
    }

    /// Packs the block for writing.
    fn pack(&self, decoder: &mut Decoder) -> Option<()> {
        if let Some(parts) = self.gpt2() {
            let parts = parts.host();
            decoder.push(&DecoderBlock::Gpt2(parts.each_ref().map(|w| w.as_slice()).into()));
            return Some(());
        }
        let (Norm::Rms(norm1), Norm::Rms(norm2)) = (&self.norm_attention, &self.norm_mlp) else { return None };
        let norms = [norm1, norm2].map(|norm| host(norm.gamma.val()));
        let maps: [&Projection; MAPS] = self.llama_linears().try_into().ok()?;
        let decoded = maps.map(|map| map.mapped().map(|mapped| mapped.read())); // [out, in]
        let held = maps.map(|map| match map.mapped() {
            Some(_) => vec![],
            None => host(map.matrix()), // [in, out]
        });
        let adapters = maps.map(|map| map.lora.as_ref().map(|lora| [host(lora.a.val()), host(lora.b.val())]));
        let maps = std::array::from_fn(|i| LinearWeights {
            weight: decoded[i].as_deref().unwrap_or(&held[i]),
            turned: decoded[i].is_some(),
            a: adapters[i].as_ref().map_or(&[], |[a, _]| a),
            b: adapters[i].as_ref().map_or(&[], |[_, b]| b),
        });
        decoder.push(&DecoderBlock::Llama(LlamaWeights { norms: norms.each_ref().map(|w| w.as_slice()), maps }));
        Some(())
    }

    /// The whole block in one operation, where there is one for it.
    fn fused(&self, x: &Tensor<3>, place: &FusedContext) -> Option<Tensor<3>> {
        match &place.tables {
            Some(tables) => self.fused_llama(x, place, tables),
            None => self.fused_gpt2(x, place),
        }
    }

    /// A Llama block, whose projections carry adapters of one rank and scale, or none.
    fn fused_llama(&self, x: &Tensor<3>, place: &FusedContext, [cos, sin]: &[Arc<Vec<f32>>; 2]) -> Option<Tensor<3>> {
        let (Norm::Rms(norm1), Norm::Rms(norm2)) = (&self.norm_attention, &self.norm_mlp) else { return None };
        let QkvProjection::Apart(SplitQkv { q, k, v }) = &self.attention.inputs else { return None };
        let Mlp::Gated(GatedMlp { gate, up, down }) = &self.mlp else { return None };
        let Attention { heads, key_value_heads, head_width, out, .. } = &self.attention;
        let maps = [q, k, v, out, gate, up, down];
        let adapter = |map: &Projection| map.lora.as_ref().map(|lora| (lora.a.dims()[1], lora.scale));
        let first = adapter(q);
        if maps.iter().any(|map| map.linear.bias.is_some() || adapter(map) != first) {
            return None;
        }
        let (rank, scale) = first.unwrap_or((0, 0.0));
        let [sequences, columns, width] = x.dims();
        let shape = LlamaShape {
            sequences,
            columns,
            width,
            heads: *heads,
            key_value_heads: *key_value_heads,
            head_width: *head_width,
            inner: gate.dims()[1],
            epsilon: self.epsilon as f32,
            rank,
            scale: scale as f32,
        };
        let weight = |map: &Projection| map.linear.weight.val().into_dispatch();
        let none = Tensor::<2>::zeros([1, 1], &x.device());
        let a = |map: &Projection| map.lora.as_ref().map_or(none.clone(), |lora| lora.a.val()).into_dispatch();
        let b = |map: &Projection| map.lora.as_ref().map_or(none.clone(), |lora| lora.b.val()).into_dispatch();
        let tensors = LlamaTensors {
            x: x.clone().into_dispatch(),
            norm1: norm1.gamma.val().into_dispatch(),
            norm2: norm2.gamma.val().into_dispatch(),
            q: weight(q),
            k: weight(k),
            v: weight(v),
            out: weight(out),
            gate: weight(gate),
            up: weight(up),
            down: weight(down),
            q_a: a(q),
            q_b: b(q),
            k_a: a(k),
            k_b: b(k),
            v_a: a(v),
            v_b: b(v),
            out_a: a(out),
            out_b: b(out),
            gate_a: a(gate),
            gate_b: b(gate),
            up_a: a(up),
            up_b: b(up),
            down_a: a(down),
            down_b: b(down),
        };
        let mapped: Vec<_> = maps.iter().filter_map(|map| map.mapped().cloned()).collect();
        if !mapped.is_empty() && mapped.len() < MAPS {
            return None;
        }
        let plan = LlamaPlan {
            shape,
            mapped: mapped.try_into().ok(),
            cos: cos.clone(),
            sin: sin.clone(),
            left: place.left.clone(),
            recompute: place.recompute,
        };
        Some(fused::llama(tensors, plan))
    }

    fn fused_gpt2(&self, x: &Tensor<3>, place: &FusedContext) -> Option<Tensor<3>> {
        let parts = self.gpt2()?;
        let [sequences, columns, width] = x.dims();
        let shape = BlockShape {
            sequences,
            columns,
            width,
            heads: self.attention.heads,
            inner: parts.up.0.dims()[1],
            activation: parts.activation,
            epsilon: self.epsilon as f32,
        };
        let tensors = BlockTensors {
            x: x.clone().into_dispatch(),
            norm1_gain: parts.norm1.0.into_dispatch(),
            norm1_bias: parts.norm1.1.into_dispatch(),
            qkv: parts.qkv.0.into_dispatch(),
            qkv_bias: parts.qkv.1.into_dispatch(),
            out: parts.out.0.into_dispatch(),
            out_bias: parts.out.1.into_dispatch(),
            norm2_gain: parts.norm2.0.into_dispatch(),
            norm2_bias: parts.norm2.1.into_dispatch(),
            up: parts.up.0.into_dispatch(),
            up_bias: parts.up.1.into_dispatch(),
            down: parts.down.0.into_dispatch(),
            down_bias: parts.down.1.into_dispatch(),
        };
        Some(fused::block(tensors, BlockPlan { shape, left: place.left.clone(), recompute: place.recompute }))
    }
}

/// Where a block's columns stand, for the operation that does all of a block.
struct FusedContext {
    left: Option<Arc<Vec<usize>>>,
    recompute: bool,
    /// `cos` and `sin` of the rotary angles, `[context, E/2]` each.
    tables: Option<[Arc<Vec<f32>>; 2]>,
}

/// The parameters of a GPT-2 block: gains and matrices, each with its bias.
struct Gpt2Parts {
    norm1: (Tensor<1>, Tensor<1>),
    qkv: (Tensor<2>, Tensor<1>),
    out: (Tensor<2>, Tensor<1>),
    norm2: (Tensor<1>, Tensor<1>),
    up: (Tensor<2>, Tensor<1>),
    down: (Tensor<2>, Tensor<1>),
    activation: duel_kernels::Activation,
}

impl Gpt2Parts {
    /// On the host, in the order of [`BlockWeights`].
    fn host(self) -> [Vec<f32>; 12] {
        let norm = |(gain, bias): (Tensor<1>, Tensor<1>)| [host(gain), host(bias)];
        let affine = |(matrix, bias): (Tensor<2>, Tensor<1>)| [host(matrix), host(bias)];
        let [n1, b1] = norm(self.norm1);
        let [n2, b2] = norm(self.norm2);
        let [qkv, qkv_bias] = affine(self.qkv);
        let [out, out_bias] = affine(self.out);
        let [up, up_bias] = affine(self.up);
        let [down, down_bias] = affine(self.down);
        [n1, b1, qkv, qkv_bias, out, out_bias, n2, b2, up, up_bias, down, down_bias]
    }
}

/// How a model knows where a token stands.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one or two a block")]
enum Positions {
    Learned(LearnedPositions),
    Rotary(Rotary),
}

#[derive(Module, Debug)]
struct LearnedPositions {
    /// `[context, D]`
    weight: Param<Tensor<2>>,
}

/// Tables of `cos` and `sin` of position over wavelength, `[context, E/2]`.
#[derive(Module, Debug)]
struct Rotary {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Rotary {
    fn new(context: usize, head_width: usize, theta: f64, device: &Device) -> Self {
        let half = head_width / 2;
        let angle = |position: usize, i: usize| position as f64 * theta.powf(-2.0 * i as f64 / head_width as f64);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..context).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32)).collect();
            Tensor::from_data(TensorData::new(values, [context, half]), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }
}

/// Ids to hidden states.
#[derive(Module, Debug)]
struct Backbone {
    tokens: Embedding,
    positions: Positions,
    blocks: Vec<TransformerBlock>,
    norm: Norm,
    epsilon: f64,
    /// Whether fused blocks keep nothing between their input and their output.
    recompute: bool,
}

impl Backbone {
    /// See [`Policy::map_projections`].
    fn map_projections(mut self, mut f: impl FnMut(String, Projection) -> Projection) -> Self {
        for (i, block) in self.blocks.iter_mut().enumerate() {
            let mut at = |part: &str, slot: &mut Projection| {
                *slot = f(format!("blocks.{i}.{part}"), slot.clone());
            };
            match &mut block.attention.inputs {
                QkvProjection::Joint(joint) => at("attention.qkv", joint),
                QkvProjection::Apart(apart) => {
                    at("attention.q", &mut apart.q);
                    at("attention.k", &mut apart.k);
                    at("attention.v", &mut apart.v);
                }
            }
            at("attention.out", &mut block.attention.out);
            match &mut block.mlp {
                Mlp::SquaredRelu(m) | Mlp::GeluTanh(m) => {
                    at("mlp.up", &mut m.up);
                    at("mlp.down", &mut m.down);
                }
                Mlp::Gated(m) => {
                    at("mlp.gate", &mut m.gate);
                    at("mlp.up", &mut m.up);
                    at("mlp.down", &mut m.down);
                }
            }
        }
        self
    }

    /// [`weights::hash`] of a module with this body, of the matrices that stay in their file too: it does not depend on where
    /// they are.
    fn hash_of<M: Module>(&self, module: &M) -> String {
        let mut mapped = HashMap::new();
        let _ = self.clone().map_projections(|name, projection| {
            mapped.extend(projection.mapped().cloned().map(|matrix| (name, matrix)));
            projection
        });
        weights::hash_with(module, |ours| {
            let matrix: &Arc<MmapMatrix> = mapped.get(canonical_name(ours).strip_suffix(".weight")?)?;
            Some((matrix.dims(), matrix.values()))
        })
    }

    fn new(config: &TransformerConfig, rng: &mut Init<'_>, device: &Device) -> Self {
        let mut tokens = EmbeddingConfig::new(config.vocabulary, config.width).init(device);
        let std = 1.0 / (config.width as f64).sqrt();
        tokens.weight = normal([config.vocabulary, config.width], std, rng, device);
        let positions = match config.family {
            Family::Gpt2 { .. } => Positions::Learned(LearnedPositions {
                weight: normal([config.context, config.width], std, rng, device),
            }),
            Family::Llama { rope_theta, head_width, .. } => {
                Positions::Rotary(Rotary::new(config.context, head_width, rope_theta, device))
            }
        };
        Self {
            tokens,
            positions,
            blocks: (0..config.layers).map(|_| TransformerBlock::new(config, rng, device)).collect(),
            norm: Norm::new(config, device),
            epsilon: config.epsilon(),
            recompute: false,
        }
    }

    /// Parameters of the blocks' matrices.
    fn matrices(&self) -> usize {
        self.blocks.iter().flat_map(TransformerBlock::linears).map(|map| map.dims().iter().product::<usize>()).sum()
    }

    /// Hidden states `[B, L, D]` of tokens, which follow those of `cache` where one is given.
    fn forward(&self, tokens: Tokens, mut cache: Option<&mut KvCache>) -> Tensor<3> {
        let [b, l] = tokens.ids.dims();
        count(|counted| counted.blocks += (2 * self.matrices() * b * l) as f64);
        let device = tokens.ids.device();
        let start = cache.as_ref().map_or(0, |c| c.columns);
        let left = cache.as_ref().and_then(|c| c.left.clone()).or(tokens.left_padding);
        let mut x = self.tokens.forward(tokens.ids); // [B, L, D]
        let mut rotation = None;
        match &self.positions {
            Positions::Learned(table) => x = x + at_positions(&table.weight.val(), start, l, left.as_deref()),
            Positions::Rotary(table) => {
                let of = |t: &Tensor<2>| at_positions(t, start, l, left.as_deref()).unsqueeze_dim::<4>(1);
                rotation = Some((of(&table.cos), of(&table.sin)));
            }
        }
        if cache.is_none() && fused::is_supported(&x) {
            let tables = match &self.positions {
                Positions::Learned(_) => None,
                Positions::Rotary(Rotary { cos, sin }) => Some([cos, sin].map(|table| Arc::new(host(table.clone())))),
            };
            let place = FusedContext { left: left.clone().map(Arc::new), recompute: self.recompute, tables };
            let all = self.blocks.iter().try_fold(x.clone(), |x, block| block.fused(&x, &place));
            if let Some(x) = all {
                return self.norm.forward(x, self.epsilon);
            }
        }
        let place = AttentionContext { hidden: hidden(b, start, l, left.as_deref(), &device), rotation };
        for (i, block) in self.blocks.iter().enumerate() {
            let past = cache.as_deref_mut().map(|cache| {
                if cache.layers.len() <= i {
                    let empty = || Tensor::empty([b, 1, 0, 1], &device);
                    cache.layers.push((empty(), empty()));
                }
                &mut cache.layers[i]
            });
            x = block.forward(x, &place, past);
        }
        if let Some(cache) = cache {
            cache.columns += l;
            cache.left = left;
        }
        self.norm.forward(x, self.epsilon)
    }
}

/// Rows of a table by position, `[B or 1, L, ·]`: a column's position does not count the padding before it.
fn at_positions(table: &Tensor<2>, start: usize, l: usize, left: Option<&[usize]>) -> Tensor<3> {
    let Some(left) = left else { return table.clone().narrow(0, start, l).unsqueeze::<3>() };
    let positions: Vec<i32> =
        left.iter().flat_map(|&n| (start..start + l).map(move |column| column.saturating_sub(n) as i32)).collect();
    let count = positions.len();
    let index = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), &table.device());
    let units = table.dims()[1];
    table.clone().select(0, index).reshape([left.len(), l, units])
}

/// Which keys a query may not see: those after it, and padding. `[B or 1, 1, L, start + L]`.
fn hidden(b: usize, start: usize, l: usize, left: Option<&[usize]>, device: &Device) -> Option<Tensor<4, Bool>> {
    let keys = start + l;
    match left {
        None if l == 1 => None,
        None => Some(Tensor::<2, Bool>::tril_mask([l, keys], start as i64, device).unsqueeze::<4>()),
        Some(left) => {
            let see = |row: usize, query: usize, key: usize| key <= start + query && key >= left[row];
            let hide: Vec<bool> =
                (0..b).flat_map(|row| (0..l).flat_map(move |q| (0..keys).map(move |k| !see(row, q, k)))).collect();
            Some(Tensor::from_data(TensorData::new(hide, [b, 1, l, keys]), device))
        }
    }
}

/// A language model.
#[derive(Module, Debug)]
pub struct Policy {
    body: Backbone,
    /// `None` where the head shares the token embedding.
    head: Option<Linear>,
}

impl Policy {
    /// A fresh model; every weight is drawn from `rng`.
    pub fn new(config: &TransformerConfig, rng: &mut Rng, device: &Device) -> Self {
        Self::starting(config, &mut Init::Random(rng), device)
    }

    /// The shape of a model, whose weights are to be replaced.
    pub fn zeros(config: &TransformerConfig, device: &Device) -> Self {
        Self::starting(config, &mut Init::Zeros, device)
    }

    fn starting(config: &TransformerConfig, rng: &mut Init<'_>, device: &Device) -> Self {
        let body = Backbone::new(config, rng, device);
        let head = (!config.tied).then(|| {
            let weight = normal([config.width, config.vocabulary], 0.02, rng, device);
            let mut head = LinearConfig::new(config.width, config.vocabulary).with_bias(false).init(device);
            head.weight = weight;
            head
        });
        Self { body, head }
    }

    /// Logits after each token from column `from` on.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, L − from, V]`. Only those columns reach the head.
    pub fn logits(&self, tokens: impl Into<Tokens>, from: usize) -> Tensor<3> {
        self.unembed(self.hidden_states(tokens, from))
    }

    /// Hidden states after each token from column `from` on: what the head reads.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, L − from, D]`.
    pub fn hidden_states(&self, tokens: impl Into<Tokens>, from: usize) -> Tensor<3> {
        let tokens = tokens.into();
        let [_, l] = tokens.ids.dims();
        self.body.forward(tokens, None).narrow(1, from, l - from)
    }

    /// Log-probs `[B, T]` of `targets` `[B, T]`, the tokens after `states` `[B, T, D]`, as one operation; `None` where that
    /// cannot be had. `hidden` tokens `[T, V]` cannot be said. The states are asked for only where there is one.
    pub fn token_logprobs(
        &self,
        states: impl FnOnce() -> Tensor<3>,
        targets: Tensor<2, Int>,
        hidden: Option<Arc<Vec<bool>>>,
    ) -> Option<Tensor<2>> {
        let (weight, tied) = match &self.head {
            Some(head) if head.bias.is_some() => return None,
            Some(head) => (head.weight.val(), false),
            None => (self.body.tokens.weight.val(), true),
        };
        if !fused::is_supported(&weight) {
            return None;
        }
        let vocabulary = weight.dims()[usize::from(!tied)];
        let states = states(); // [B, T, D]
        let [b, t, width] = states.dims();
        count(|counted| counted.heads += (2 * width * vocabulary * b * t) as f64);
        let targets = Arc::new(targets.into_data().iter::<i32>().collect());
        let plan = LogpPlan { targets, vocabulary, tied, hidden };
        Some(fused::chosen_logp(states.reshape([b * t, width]), weight, plan).reshape([b, t]))
    }

    /// Logits after the last of the new tokens, which follow those of `cache`.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, V]`. Without gradient in mind.
    pub fn next_logits(&self, tokens: impl Into<Tokens>, cache: &mut KvCache) -> Tensor<2> {
        let tokens = tokens.into();
        let [_, l] = tokens.ids.dims();
        let hidden = self.body.forward(tokens, Some(cache)).narrow(1, l - 1, 1);
        self.unembed(hidden).squeeze_dim::<2>(1)
    }

    /// The model with its weights packed for writing and its adapters worked in, on a device that has such an operation.
    /// GPT-2 has it without adapters.
    pub fn decoder(&self) -> Option<Decoder> {
        let Backbone { tokens, positions, blocks, norm, epsilon, .. } = &self.body;
        if !fused::is_supported(&tokens.weight.val()) || self.head.as_ref().is_some_and(|head| head.bias.is_some()) {
            return None;
        }
        let first = blocks.first()?;
        let mut scale = 0.0;
        let mlp = match first.mlp.activation() {
            Some(activation) => {
                blocks.iter().try_for_each(|block| block.gpt2().map(|_| ()))?;
                DecoderMlp::Plain(activation)
            }
            None => {
                let worn = blocks.iter().flat_map(TransformerBlock::llama_linears).filter_map(|map| map.lora.as_ref());
                let mut scales = worn.map(|lora| lora.scale);
                scale = scales.next().unwrap_or(0.0);
                if scales.any(|other| other != scale) {
                    return None;
                }
                DecoderMlp::Gated
            }
        };
        let positions = match positions {
            Positions::Learned(table) => DecoderPositions::Learned(host(table.weight.val())),
            Positions::Rotary(Rotary { cos, sin }) => {
                DecoderPositions::Rotary([cos, sin].map(|table| host(table.clone())))
            }
        };
        let (norm_gain, norm_bias) = match norm {
            Norm::Layer(norm) => (host(norm.gamma.val()), host(norm.beta.as_ref()?.val())),
            Norm::Rms(norm) => (host(norm.gamma.val()), vec![]),
        };
        let mut decoder = Decoder::new(DecoderParts {
            width: tokens.weight.dims()[1],
            heads: first.attention.heads,
            key_value_heads: first.attention.key_value_heads,
            head_width: first.attention.head_width,
            mlp,
            epsilon: *epsilon as f32,
            tokens: &host(tokens.weight.val()),
            positions,
            norm_gain,
            norm_bias,
            head: self.head.as_ref().map(|head| host(head.weight.val())).as_deref(),
            scale: scale as f32,
        });
        for block in blocks {
            block.pack(&mut decoder)?;
        }
        Some(decoder)
    }

    /// Logits `[B, T, V]` after hidden states `[B, T, D]`.
    pub fn unembed(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.count_heads(hidden.dims()[0] * hidden.dims()[1]);
        match &self.head {
            Some(head) => head.forward(hidden),
            None => {
                let [b, l, d] = hidden.dims();
                let embedding = self.body.tokens.weight.val(); // [V, D]
                let [v, _] = embedding.dims();
                hidden.reshape([b * l, d]).matmul(embedding.transpose()).reshape([b, l, v])
            }
        }
    }

    /// Counts the head's reading of so many states.
    fn count_heads(&self, states: usize) {
        let [v, d] = self.body.tokens.weight.dims();
        count(|counted| counted.heads += (2 * d * v * states) as f64);
    }

    /// Counts what a decoder reads elsewhere: columns through the blocks, and states through the head.
    pub(crate) fn count_decoded(&self, columns: usize, states: usize) {
        count(|counted| counted.blocks += (2 * self.body.matrices() * columns) as f64);
        self.count_heads(states);
    }

    /// The model with each projection of its blocks replaced, by name (`blocks.0.attention.q`, `blocks.0.mlp.up`).
    pub fn map_projections(mut self, f: impl FnMut(String, Projection) -> Projection) -> Self {
        self.body = self.body.map_projections(f);
        self
    }

    /// The model frozen, with a fresh adapter of the given rank and `scale` (α/r) on each projection of its blocks whose
    /// name `wears` one: all that is trained. An adapter starts as no change. Hu et al. 2021, as PEFT starts it.
    pub fn with_fresh_lora(
        self,
        rank: usize,
        scale: f64,
        wears: impl Fn(&str) -> bool,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        self.no_grad().map_projections(|name, projection| {
            if !wears(&name) {
                return projection;
            }
            let [inputs, outputs] = projection.dims();
            let spread = 1.0 / (3.0 * inputs as f64).sqrt();
            let a = normal([inputs, rank], spread, &mut Init::Random(rng), device);
            let b = Param::from_tensor(Tensor::zeros([rank, outputs], device));
            projection.with_lora(Lora { a, b, scale })
        })
    }

    /// The model whose fused blocks make again on the way back what lies within them: less memory, a forward pass more.
    /// Blocks of composed operations keep what they made.
    pub fn with_recomputed_blocks(mut self) -> Self {
        self.body.recompute = true;
        self
    }

    /// Whether an adapter is on.
    pub fn has_lora(&self) -> bool {
        let worn = |block: &TransformerBlock| block.linears().into_iter().any(|map| map.lora.is_some());
        self.body.blocks.iter().any(worn)
    }

    /// A hash of all weights, those that stay in their file too.
    pub fn hash(&self) -> String {
        self.body.hash_of(self)
    }

    /// The model as it is read fastest: a Llama's adapters stay on, so that the frozen weights are not copied; GPT-2's are
    /// worked in, since its one operation knows none.
    pub fn for_inference(self) -> Self {
        match self.body.positions {
            Positions::Rotary(_) => self,
            Positions::Learned(_) => self.merged(),
        }
    }

    /// The model with its adapters worked into its matrices, all of which are in memory.
    pub fn merged(self) -> Self {
        self.map_projections(|_, projection| projection.merge_lora())
    }
}

/// A value head on a policy's own hidden states, which starts at zero.
#[derive(Module, Debug)]
pub struct ValueHead {
    head: Linear,
}

impl ValueHead {
    /// For states of a policy of that width.
    pub fn new(width: usize, device: &Device) -> Self {
        let mut head = LinearConfig::new(width, 1).init(device);
        head.weight = Param::from_tensor(Tensor::zeros([width, 1], device));
        head.bias = Some(Param::from_tensor(Tensor::zeros([1], device)));
        Self { head }
    }

    /// A value `[B, T]` for each state `[B, T, D]`.
    pub fn forward(&self, states: Tensor<3>) -> Tensor<2> {
        self.head.forward(states).squeeze_dim::<2>(2)
    }
}

/// A model of one number a token: reward model and value model.
#[derive(Module, Debug)]
pub struct ScalarModel {
    body: Backbone,
    head: Linear,
    /// Which of a response's numbers are its score.
    #[module(skip)]
    pub(crate) score: ScorePooling,
}

impl ScalarModel {
    /// The policy's body under a head that starts at zero.
    pub fn from_policy(policy: Policy, device: &Device) -> Self {
        let width = policy.body.tokens.weight.dims()[1];
        let mut model = Self::with_head(policy, vec![0.0; width], device);
        model.head.bias = Some(Param::from_tensor(Tensor::zeros([1], device)));
        model
    }

    /// The policy's body under a head of the given weights `[D]` and no bias.
    pub fn with_head(policy: Policy, weights: Vec<f32>, device: &Device) -> Self {
        let width = weights.len();
        let mut head = LinearConfig::new(width, 1).with_bias(false).init(device);
        head.weight = Param::from_tensor(Tensor::from_data(TensorData::new(weights, [width, 1]), device));
        Self { body: policy.body, head, score: ScorePooling::Last }
    }

    /// The same model whose score of a response is another; it is that of the last token unless said.
    pub fn scoring(self, score: ScorePooling) -> Self {
        Self { score, ..self }
    }

    /// The same model giving `(x − centre) / scale` where it gave x.
    pub fn rescaled(mut self, centre: f64, scale: f64) -> Self {
        let device = self.head.weight.device();
        self.head.weight = self.head.weight.map(|w| w / scale);
        let bias = self.head.bias.take().unwrap_or_else(|| Param::from_tensor(Tensor::zeros([1], &device)));
        self.head.bias = Some(bias.map(|b| (b - centre) / scale));
        self
    }

    /// A hash of all weights, those that stay in their file too.
    pub fn hash(&self) -> String {
        self.body.hash_of(self)
    }

    /// One number after each token.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, L]`.
    pub fn forward(&self, tokens: impl Into<Tokens>) -> Tensor<2> {
        let states = self.body.forward(tokens.into(), None);
        let [b, l, d] = states.dims();
        count(|counted| counted.heads += (2 * d * b * l) as f64);
        self.head.forward(states).squeeze_dim::<2>(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reader, Responses, generate};
    use burn::module::Module;
    use duel_spec::{TokenSpec, seeds};

    fn config(tied: bool) -> TransformerConfig {
        TransformerConfig::small(11, 10, 2, 16, 2, tied)
    }

    fn space() -> TokenSpec {
        TokenSpec {
            vocabulary: 11,
            pad: 0,
            bos: 1,
            eos: 2,
            prompt_tokens: 4,
            response_tokens: 6,
            allowed_tokens: None,
            force_eos: false,
        }
    }

    fn policy(tied: bool) -> Policy {
        Policy::new(&config(tied), &mut seeds::derive(7, "test", 0, "init"), &Device::flex())
    }

    fn ids(rows: &[&[i32]]) -> Tensor<2, Int> {
        let shape = [rows.len(), rows[0].len()];
        Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_token_changes_nothing_before_it() {
        for tied in [true, false] {
            let policy = policy(tied);
            let logits = weights::host(policy.logits(ids(&[&[1, 5, 6, 7, 8], &[1, 5, 6, 9, 10]]), 0)); // [2, 5, V]
            let (a, b) = logits.split_at(5 * 11);
            assert_eq!(apart(&a[..3 * 11], &b[..3 * 11]), 0.0);
            assert!(apart(&a[3 * 11..4 * 11], &b[3 * 11..4 * 11]) > 1e-4);
        }
    }

    #[test]
    fn recomputed_blocks_have_the_same_gradient() {
        let device = Device::flex().autodiff();
        let policy = Policy::new(&config(true), &mut seeds::derive(7, "test", 0, "init"), &device);
        let gradient = |policy: &Policy| {
            let ids = Tensor::<2, Int>::from_data([[1, 5, 6, 7, 8], [1, 5, 6, 9, 10]], &device);
            let gradients = policy.logits(ids, 0).square().mean().backward();
            host(policy.body.tokens.weight.val().grad(&gradients).expect("the loss reaches the embedding"))
        };
        let found = gradient(&policy);
        assert!(found.iter().any(|g| *g != 0.0));
        assert_eq!(gradient(&policy.with_recomputed_blocks()), found);
    }

    #[test]
    fn the_cache_gives_what_reading_anew_gives() {
        let policy = policy(true);
        let whole = weights::host(policy.logits(ids(&[&[1, 5, 6, 7, 8], &[1, 3, 3, 9, 4]]), 0)); // [2, 5, V]
        let mut cache = KvCache::default();
        let mut found = vec![weights::host(policy.next_logits(ids(&[&[1, 5, 6], &[1, 3, 3]]), &mut cache))];
        found.push(weights::host(policy.next_logits(ids(&[&[7], &[9]]), &mut cache)));
        // the second row alone goes on
        let mut cache = cache.select(&[1]);
        found.push(weights::host(policy.next_logits(ids(&[&[4]]), &mut cache)));
        let at = |row: usize, token: usize| &whole[(row * 5 + token) * 11..(row * 5 + token + 1) * 11];
        assert!(apart(&found[0], &[at(0, 2), at(1, 2)].concat()) < 1e-5);
        assert!(apart(&found[1], &[at(0, 3), at(1, 3)].concat()) < 1e-5);
        assert!(apart(&found[2], at(1, 4)) < 1e-5);
    }

    #[test]
    fn sampling_keeps_the_models_log_probs_and_does_not_depend_on_the_company() {
        let (policy, space) = (policy(true), space());
        let prompts: Vec<Vec<u32>> = (3..9).map(|t| vec![1, t, t + 1, 4]).collect();
        let draw = |prompts: Vec<Vec<u32>>| {
            generate(&policy, &space, prompts, &mut seeds::derive(1, "test", 0, "draw"), &Device::flex())
        };
        let batch = draw(prompts.clone());
        let reader = Reader::new(&space, &Device::flex());
        let logits = reader.logits(&policy, &reader.tokens(&batch)); // [B, T, V]
        let logp = weights::host(activation::log_softmax(logits, 2));
        for (row, response) in batch.responses.iter().enumerate() {
            for (column, &token) in response.iter().enumerate() {
                let read = logp[(row * space.response_tokens + column) * 11 + token as usize];
                assert!((read - batch.logp[row][column]).abs() < 1e-5);
            }
        }
        assert_eq!(draw(prompts[..2].to_vec()).responses, batch.responses[..2].to_vec());
    }

    #[test]
    fn hidden_tokens_are_never_written_and_the_last_column_ends() {
        let policy = policy(true);
        let space = TokenSpec { allowed_tokens: Some(vec![2, 5, 6]), force_eos: true, ..space() };
        let prompts = vec![vec![1, 7, 8, 9]; 64];
        let batch = generate(&policy, &space, prompts, &mut seeds::derive(2, "test", 0, "draw"), &Device::flex());
        for (row, response) in batch.responses.iter().enumerate() {
            assert!(response.iter().all(|t| [2, 5, 6].contains(t)) && batch.ended(row, &space));
        }
        let reader = Reader::new(&space, &Device::flex());
        let logits = weights::host(reader.logits(&policy, &reader.tokens(&batch)));
        let last = (space.response_tokens - 1) * 11;
        assert!(logits[last + 5] < -1e29 && logits[last + 2] > -1e3);
    }

    #[test]
    fn weights_go_to_disk_and_back_and_foreign_ones_are_refused() {
        let folder = std::env::temp_dir().join(format!("duel-model-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable folder");
        let path = folder.join("policy.safetensors");
        let policy = policy(false);
        weights::save(&policy, &path).expect("a writable folder");
        let other = Policy::new(&config(false), &mut seeds::derive(8, "test", 0, "init"), &Device::flex());
        assert_ne!(weights::hash(&other), weights::hash(&policy));
        assert_eq!(weights::hash(&weights::load(other, &path).expect("a writable folder")), weights::hash(&policy));
        let wide = Policy::new(
            &TransformerConfig::small(11, 10, 2, 32, 2, false),
            &mut seeds::derive(8, "test", 0, "init"),
            &Device::flex(),
        );
        assert!(matches!(weights::load(wide, &path), Err(crate::Error::Shape { .. })));
        std::fs::write(&path, b"not weights").expect("a writable folder");
        assert!(matches!(weights::load(policy, &path), Err(crate::Error::Damaged { .. })));
        std::fs::remove_dir_all(folder).expect("a writable folder");
    }

    #[test]
    fn values_and_scores_stand_on_the_same_columns() {
        let space = space();
        let critic = ScalarModel::from_policy(policy(true), &Device::flex());
        // a head that is not zero, so that the numbers say something
        let flat: Vec<f32> =
            weights::flatten(&critic).iter().enumerate().map(|(i, w)| w + (i % 7) as f32 * 0.01).collect();
        let critic = weights::unflatten(critic, &flat);
        let reader = Reader::new(&space, &Device::flex());
        let batch =
            Responses { prompts: vec![vec![1, 5, 6, 7]; 2], responses: vec![vec![8, 9, 2], vec![8, 2]], logp: vec![] };
        let all = weights::host(critic.forward(reader.tokens(&batch))); // [2, 10]
        let values = weights::host(reader.values(&critic, &reader.tokens(&batch))); // [2, 6]
        let scores = weights::host(reader.scores(&critic, &batch)); // [2]
        assert_eq!(&values[..3], &all[3..6]); // before tokens 8, 9, EOS
        assert_eq!(scores, vec![all[6], all[10 + 5]]); // on each EOS
        let means = weights::host(reader.scores(&critic.clone().scoring(ScorePooling::Mean), &batch));
        assert!(apart(&means, &[(all[4] + all[5] + all[6]) / 3.0, (all[14] + all[15]) / 2.0]) < 1e-6);
        let rescaled = critic.rescaled(1.5, 2.0);
        let again = weights::host(reader.scores(&rescaled.valid(), &batch));
        assert!(apart(&again, &[(scores[0] - 1.5) / 2.0, (scores[1] - 1.5) / 2.0]) < 1e-5);
    }
}
