//! Gemma: gains of 1 + w, a scaled embedding, a GELU gate. Gemma Team 2024.

use super::llama;
use super::shared::{SharedSettings, activation_name, attention_biases};
use crate::Result;
use crate::architecture::{Activation, NormKind};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    norm: NormKind::RmsOnePlus,
    default_activation: Activation::GeluTanh,
    tied: true,
    head_width: Some(256),
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("use_bidirectional_attention")?;
    let mut config = SETTINGS.read(settings)?;
    let architecture = &mut config.architecture;
    if architecture.mlp.activation == Activation::Gelu {
        architecture.mlp.activation = Activation::GeluTanh; // the first releases say "gelu", and mean this one
    }
    attention_biases(settings, &mut architecture.biases, false)?;
    architecture.embedding_multiplier = (config.width as f64).sqrt();
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let activation = activation_name(config.architecture.mlp.activation);
    SETTINGS.write(
        config,
        json!({
            "attention_bias": config.architecture.biases.qkv,
            "hidden_activation": activation,
        }),
    )
}
