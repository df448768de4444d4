//! Llama: rotary positions, RMS norm, no biases, grouped queries, gated MLP. Touvron et al. 2023.

use super::shared::{SharedSettings, attention_biases};
use crate::architecture::{
    Activation, Architecture, AttentionSpec, BiasSpec, FusedProjections, LogitSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, PositionSpec, QueryKeyNorm, ResidualOrder, ResidualSpec, RotarySpec,
};
use crate::config::TransformerConfig;
use crate::config_reader::{ConfigReader, EPSILONS, THETAS};
use crate::family::{Family, GgufFamily, HeaderEntries};
use crate::gguf_header::{HeaderValue, MetaValue};
use crate::header_reader::HeaderReader;
use crate::tensor_names::{self, TensorNames};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// What differs among models of the family, besides their sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama {
    pub key_value_heads: usize,
    /// Units of one head.
    pub head_width: usize,
    /// Hidden units of the MLP.
    pub inner: usize,
    pub rope_theta: f64,
    pub epsilon: f64,
}

impl Llama {
    /// The choices of such a model.
    pub fn architecture(self) -> Architecture {
        let Self { key_value_heads, head_width, inner, rope_theta, epsilon } = self;
        Architecture {
            family: FAMILY.model_type,
            norm: NormSpec {
                kind: NormKind::Rms,
                epsilon,
                placement: NormPlacement::Before,
                queries_and_keys: QueryKeyNorm::None,
            },
            biases: BiasSpec::default(),
            positions: PositionSpec::Rotary(RotarySpec::plain(rope_theta)),
            attention: AttentionSpec {
                key_value_heads: Some(key_value_heads),
                head_width: Some(head_width),
                ..AttentionSpec::default()
            },
            mlp: MlpSpec { inner, gated: true, activation: Activation::Silu },
            residual: ResidualSpec { order: ResidualOrder::Serial, multiplier: 1.0 },
            embedding_multiplier: 1.0,
            logits: LogitSpec::PLAIN,
            fused: FusedProjections::default(),
        }
    }
}

/// Tensors of Llama and of the families that follow its names.
pub(super) const TENSORS: TensorNames = &[
    ("tokens", "model.embed_tokens"),
    ("norm", "model.norm"),
    ("head", "lm_head"),
    ("blocks.#.norm_attention", "model.layers.#.input_layernorm"),
    ("blocks.#.norm_mlp", "model.layers.#.post_attention_layernorm"),
    ("blocks.#.attention.q", "model.layers.#.self_attn.q_proj"),
    ("blocks.#.attention.k", "model.layers.#.self_attn.k_proj"),
    ("blocks.#.attention.v", "model.layers.#.self_attn.v_proj"),
    ("blocks.#.attention.out", "model.layers.#.self_attn.o_proj"),
    ("blocks.#.mlp.gate", "model.layers.#.mlp.gate_proj"),
    ("blocks.#.mlp.up", "model.layers.#.mlp.up_proj"),
    ("blocks.#.mlp.down", "model.layers.#.mlp.down_proj"),
];

/// Settings of a GGUF file whose meaning is known.
pub(super) const KNOWN: &[&str] = &[
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "vocab_size",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scale_linear",
    "expert_count",
    "expert_used_count",
    "tensor_data_layout",
    "leading_dense_block_count",
];

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    read,
    write,
    tensors: &[TENSORS],
    inputs_first: false,
    gguf: Some(GgufFamily {
        architecture: "llama",
        known: KNOWN,
        read: |settings, width, heads| Ok(read_gguf(settings, width, heads)?.architecture()),
        write: write_gguf,
        tensors: tensor_names::GGUF,
        interleaved: true,
    }),
};

const SETTINGS: SharedSettings = SharedSettings::LLAMA;

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.only("pretraining_tp", &json!(1))?;
    let mut config = SETTINGS.read(settings)?;
    attention_biases(settings, &mut config.architecture.biases, false)?;
    config.architecture.biases.mlp = settings.flag_or("mlp_bias", false)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let BiasSpec { qkv, mlp, .. } = config.architecture.biases;
    SETTINGS.write(config, json!({ "attention_bias": qkv, "mlp_bias": mlp }))
}

pub(super) fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Llama> {
    let inner = settings.size("feed_forward_length")?;
    for key in ["expert_count", "expert_used_count", "leading_dense_block_count", "rope.scaling.type"] {
        let is_none = match settings.value(key) {
            None | Some(MetaValue::Int(0)) => true,
            Some(MetaValue::Text(range)) => &settings.bytes[range.clone()] == b"none",
            _ => false,
        };
        if !is_none {
            return Err(settings.unsupported(key, "no value"));
        }
    }
    let key_value_heads = settings.size_or("attention.head_count_kv", heads)?;
    if !heads.is_multiple_of(key_value_heads) {
        return Err(settings.unsupported("attention.head_count_kv", &format!("a divisor of the heads, {heads}")));
    }
    let head_width = settings.size_or("attention.key_length", width / heads)?;
    if head_width % 2 != 0 || settings.size_or("rope.dimension_count", head_width)? != head_width {
        let accepted = format!("{head_width}, a head's even width");
        return Err(settings.unsupported("rope.dimension_count", &accepted));
    }
    if settings.size_or("attention.value_length", head_width)? != head_width {
        let accepted = format!("{head_width}, as the keys have");
        return Err(settings.unsupported("attention.value_length", &accepted));
    }
    let theta = "rope.freq_base";
    let rope_theta = if settings.value(theta).is_some() { settings.number(theta, &THETAS)? } else { 10_000.0 };
    let epsilon = settings.number("attention.layer_norm_rms_epsilon", &EPSILONS)?;
    // the file holds f32; settings are meant in decimals
    let epsilon = format!("{:e}", epsilon as f32).parse().unwrap_or(epsilon);
    Ok(Llama { key_value_heads, head_width, inner, rope_theta, epsilon })
}

pub(super) fn write_gguf(config: &TransformerConfig, path: &Path) -> Result<HeaderEntries> {
    let theta = config.architecture.rope_theta();
    let theta = theta
        .ok_or_else(|| Error::Damaged { path: path.into(), problem: "a Llama without rotary positions".into() })?;
    let head_width = config.head_width();
    let key_value_heads = config.key_value_heads();
    let plain =
        Llama { key_value_heads, head_width, inner: config.inner(), rope_theta: theta, epsilon: config.epsilon() };
    let BiasSpec { qkv, .. } = config.architecture.biases;
    let described = Architecture {
        family: config.architecture.family,
        biases: BiasSpec { qkv: qkv && config.architecture.family != FAMILY.model_type, ..BiasSpec::default() },
        ..plain.architecture()
    };
    if described != config.architecture {
        let (key, accepted) =
            ("architecture".into(), "a model without rotary scaling, windows and other biases".into());
        return Err(Error::Unsupported {
            path: path.into(),
            key,
            found: format!("{:?}", config.architecture),
            accepted,
        });
    }
    Ok(vec![
        ("feed_forward_length", HeaderValue::Size(config.inner())),
        ("attention.head_count_kv", HeaderValue::Size(config.key_value_heads())),
        ("attention.layer_norm_rms_epsilon", HeaderValue::Real(config.epsilon())),
        ("rope.freq_base", HeaderValue::Real(theta)),
        ("rope.dimension_count", HeaderValue::Size(head_width)),
        ("attention.key_length", HeaderValue::Size(head_width)),
        ("attention.value_length", HeaderValue::Size(head_width)),
    ])
}
