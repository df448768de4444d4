//! CWM: Llama 3 with a window in three of four layers. Meta FAIR 2025.

use super::llama;
use super::shared::{SharedSettings, layer_types, window, windows};
use crate::Result;
use crate::architecture::RopeScaling;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use crate::rope_settings::RopeDefaults;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Code World Model",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "cwm",
    class: "CwmForCausalLM",
    default_epsilon: 1e-5,
    head_width: Some(128),
    rope: RopeDefaults { theta: 1e6, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.only("pretraining_tp", &json!(1))?;
    settings.unset("mlp_bias")?;
    let mut config = SETTINGS.read(settings)?;
    let window = settings.optional_size("sliding_window", Some(8192))?;
    config.architecture.attention.windows = windows(settings, config.layers, window, |layer| !layer.is_multiple_of(4))?;
    let says_nothing = ["rope_parameters", "rope_scaling"].iter().all(|key| settings.value(key).is_null());
    if let (Some(rotary), true) = (config.architecture.rotary_mut(), says_nothing) {
        rotary.scaling =
            RopeScaling::Llama3 { factor: 16.0, low_frequency: 1.0, high_frequency: 4.0, original_context: 8192 };
    }
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, json!({ "layer_types": layer_types(config), "sliding_window": window(config) }))
}
