//! Seed-OSS: Llama with biases on queries, keys and values. ByteDance Seed 2025.

use super::llama;
use super::shared::SharedSettings;
use crate::Result;
use crate::architecture::BiasSpec;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Seed-OSS",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "seed_oss",
    class: "SeedOssForCausalLM",
    head_width: Some(128),
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.only("pretraining_tp", &json!(1))?;
    let mut config = SETTINGS.read(settings)?;
    let biases = &mut config.architecture.biases;
    biases.qkv = settings.flag_or("attention_bias", true)?;
    biases.out = settings.flag_or("attention_out_bias", false)?;
    biases.mlp = settings.flag_or("mlp_bias", false)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let BiasSpec { qkv, out, mlp, .. } = config.architecture.biases;
    let settings =
        json!({ "attention_bias": qkv, "attention_out_bias": out, "mlp_bias": mlp, "residual_dropout": 0.0 });
    SETTINGS.write(config, settings)
}
