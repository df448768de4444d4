//! OLMo 3: OLMo 2 with a window in three of four layers, whose positions are not scaled. OLMo Team 2025.

use super::shared::{SharedSettings, layer_types, window, windows};
use super::{gemma2, llama, olmo2, qwen3};
use crate::Result;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use crate::rope_settings::RopeDefaults;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "OLMo 3",
    read,
    write,
    tensors: &[qwen3::QUERY_KEY_NORMS, gemma2::NORMS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "olmo3",
    class: "Olmo3ForCausalLM",
    default_epsilon: 1e-5,
    rope: RopeDefaults { theta: THETA, is_per_layer_type: true, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};
const THETA: f64 = 500_000.0;

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = olmo2::read_as(&SETTINGS, settings)?;
    let architecture = &mut config.architecture;
    let window = settings.optional_size("sliding_window", Some(4096))?;
    architecture.attention.windows = windows(settings, config.layers, window, |layer| !(layer + 1).is_multiple_of(4))?;
    if let Some(rotary) = architecture.rotary_mut() {
        rotary.windowed_theta.get_or_insert(THETA);
    }
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let settings = json!({
        "attention_bias": config.architecture.biases.qkv,
        "layer_types": layer_types(config),
        "sliding_window": window(config),
    });
    SETTINGS.write(config, settings)
}
