//! ERNIE 4.5: Llama whose heads are rotated in neighbouring pairs of units. Baidu 2025.

use super::llama;
use super::shared::SharedSettings;
use crate::Result;
use crate::architecture::BiasSpec;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use crate::rope_settings::RopeDefaults;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "ERNIE 4.5, the dense models of text alone",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: true,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "ernie4_5",
    class: "Ernie4_5ForCausalLM",
    default_epsilon: 1e-5,
    tied: true,
    head_width: Some(128),
    rope: RopeDefaults { theta: 5e5, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let bias = settings.flag_or("use_bias", false)?;
    config.architecture.biases = BiasSpec { qkv: bias, out: bias, mlp: bias, head: false };
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, json!({ "use_bias": config.architecture.biases.qkv }))
}
