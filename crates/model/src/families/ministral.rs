//! Ministral: Mistral with a window in some layers. Mistral AI 2024.

use super::llama;
use super::shared::{SharedSettings, layer_types, window, windows};
use crate::Result;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Ministral",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings =
    SharedSettings { model_type: "ministral", class: "MinistralForCausalLM", ..SharedSettings::LLAMA };

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let window = settings.optional_size("sliding_window", Some(4096))?;
    config.architecture.attention.windows = windows(settings, config.layers, window, |_| true)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, json!({ "layer_types": layer_types(config), "sliding_window": window(config) }))
}
