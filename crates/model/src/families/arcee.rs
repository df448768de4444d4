//! Arcee: Llama with a plain MLP and a squared ReLU. Arcee AI 2025.

use super::llama;
use super::shared::{SharedSettings, attention_biases};
use crate::Result;
use crate::architecture::{Activation, BiasSpec};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "AFM",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "arcee",
    class: "ArceeForCausalLM",
    default_epsilon: 1e-5,
    default_activation: Activation::SquaredRelu,
    gated: false,
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    attention_biases(settings, &mut config.architecture.biases, false)?;
    config.architecture.biases.mlp = settings.flag_or("mlp_bias", false)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let BiasSpec { qkv, mlp, .. } = config.architecture.biases;
    SETTINGS.write(config, json!({ "attention_bias": qkv, "mlp_bias": mlp }))
}
