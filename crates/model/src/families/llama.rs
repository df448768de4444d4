//! Llama: rotary positions, RMS norm, no biases, grouped queries, gated MLP. Touvron et al. 2023.

use super::shared::{SharedSettings, attention_biases};
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::{
    Activation, Architecture, AttentionSpec, BiasSpec, FusedProjections, LogitSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, PositionSpec, QueryKeyNorm, ResidualOrder, ResidualSpec, RotarySpec,
};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::tensor_names::TensorNames;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

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

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    models: "Llama 1 to 3.3, SmolLM 1 and 2, TinyLlama, Yi, DeepSeek LLM and R1-Distill-Llama",
    read,
    write,
    tensors: &[TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "llama",
        known: shared_gguf::KNOWN_WITH_WINDOWS,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::All, path),
        tensors: tensor_names::GGUF,
        interleaved: true,
        usual_scale: None,
    }),
};

/// The family that is a Llama with windows: GGUF files call both the same.
pub(super) const WINDOWED: &str = "mistral";

const SETTINGS: SharedSettings = SharedSettings::LLAMA;

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.only("pretraining_tp", &json!(1))?;
    read_as(&SETTINGS, settings)
}

/// A family with Llama's settings of biases.
pub(super) fn read_as(shared: &SharedSettings, settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = shared.read(settings)?;
    attention_biases(settings, &mut config.architecture.biases, false)?;
    config.architecture.biases.mlp = settings.flag_or("mlp_bias", false)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, write_biases(config))
}

/// The settings of biases that [`read_as`] reads.
pub(super) fn write_biases(config: &TransformerConfig) -> Value {
    let BiasSpec { qkv, mlp, .. } = config.architecture.biases;
    json!({ "attention_bias": qkv, "mlp_bias": mlp })
}

/// A Llama, or a Mistral, which is one with a window.
pub(super) fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    if architecture.rotary().is_some_and(|rotary| rotary.fraction != 1.0) {
        return Err(settings.unsupported("rope.dimension_count", "a head's width"));
    }
    let windows = shared_gguf::read_windows(settings, UsualWindows::All)?;
    if windows.is_empty() {
        return Ok(architecture);
    }
    let attention = AttentionSpec { windows, ..architecture.attention };
    Ok(Architecture { family: WINDOWED, attention, ..architecture })
}
