//! Gemma 2: norms before and after, soft caps, every other layer with a window. Gemma Team 2024.

use super::llama;
use super::shared::{SCALES, SharedSettings, attention_biases, layer_types, short_decimal, window, windows};
use crate::Result;
use crate::architecture::{Activation, NormKind, NormPlacement};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use crate::tensor_names::TensorNames;
use serde_json::{Value, json};

/// The four norms of a block.
pub(super) const NORMS: TensorNames = &[
    ("blocks.#.norm_attention_out", "model.layers.#.post_attention_layernorm"),
    ("blocks.#.norm_mlp", "model.layers.#.pre_feedforward_layernorm"),
    ("blocks.#.norm_mlp_out", "model.layers.#.post_feedforward_layernorm"),
];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    read,
    write,
    tensors: &[NORMS, llama::TENSORS],
    inputs_first: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    norm: NormKind::RmsOnePlus,
    activation: "hidden_activation",
    default_activation: Activation::GeluTanh,
    tied: true,
    head_width: Some(256),
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = read_as(&SETTINGS, settings, [Some(50.0), Some(30.0)])?;
    config.architecture.attention.windows = read_windows(settings, config.layers, 2)?;
    Ok(config)
}

/// What Gemma 2 and 3 have in common; `soft_caps` of scores and logits where they are not given.
pub(super) fn read_as(
    shared: &SharedSettings,
    settings: &ConfigReader,
    soft_caps: [Option<f64>; 2],
) -> Result<TransformerConfig> {
    settings.unset("use_bidirectional_attention")?;
    let mut config = shared.read(settings)?;
    let architecture = &mut config.architecture;
    architecture.norm.placement = NormPlacement::Both;
    attention_biases(settings, &mut architecture.biases, false)?;
    let scalar = settings.number_or("query_pre_attn_scalar", SCALES, 256.0)?;
    architecture.attention.scale = Some(scalar.powf(-0.5));
    architecture.attention.soft_cap = settings.optional_number("attn_logit_softcapping", SCALES, soft_caps[0])?;
    architecture.logits.soft_cap = settings.optional_number("final_logit_softcapping", SCALES, soft_caps[1])?;
    architecture.embedding_multiplier = (config.width as f64).sqrt();
    Ok(config)
}

/// Windows of all layers but each `pattern`-th.
pub(super) fn read_windows(settings: &ConfigReader, layers: usize, pattern: usize) -> Result<Vec<Option<usize>>> {
    let window = settings.optional_size("sliding_window", Some(4096))?;
    windows(settings, layers, window, |layer| !(layer + 1).is_multiple_of(pattern))
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, write_own(config))
}

/// The settings that [`read_as`] and [`read_windows`] read.
pub(super) fn write_own(config: &TransformerConfig) -> Value {
    let attention = &config.architecture.attention;
    json!({
        "attention_bias": config.architecture.biases.qkv,
        "attn_logit_softcapping": attention.soft_cap,
        "final_logit_softcapping": config.architecture.logits.soft_cap,
        "layer_types": layer_types(config),
        "query_pre_attn_scalar": attention.scale.map(|scale| short_decimal(scale.powi(-2))),
        "sliding_window": window(config),
    })
}
