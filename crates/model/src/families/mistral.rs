//! Mistral: Llama with a window. Jiang et al. 2023.

use super::llama;
use super::shared::{SharedSettings, window};
use super::shared_gguf::{self, UsualWindows};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::{Result, tensor_names};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Mistral 7B, Nemo, Small; Zephyr",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "llama",
        known: shared_gguf::KNOWN_WITH_WINDOWS,
        read: llama::read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::All, path),
        tensors: tensor_names::GGUF,
        interleaved: true,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings =
    SharedSettings { model_type: llama::WINDOWED, class: "MistralForCausalLM", ..SharedSettings::LLAMA };

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let window = settings.optional_size("sliding_window", Some(4096))?;
    config.architecture.attention.windows = all_layers(window, config.layers);
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, json!({ "sliding_window": window(config) }))
}

/// One window for all layers.
pub(super) fn all_layers(window: Option<usize>, layers: usize) -> Vec<Option<usize>> {
    window.map_or(vec![], |window| vec![Some(window); layers])
}
