//! Qwen2: Llama with biases on queries, keys and values. Yang et al. 2024.

use super::llama::{self, Llama};
use super::shared::{SharedSettings, layer_types, window, windows};
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::{Architecture, BiasSpec};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::{Result, tensor_names};
use serde_json::{Value, json};

/// What differs among models of the family, besides their sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Qwen2(pub Llama);

impl Qwen2 {
    /// The choices of such a model.
    pub fn architecture(self) -> Architecture {
        let biases = BiasSpec { qkv: true, ..BiasSpec::default() };
        Architecture { family: FAMILY.model_type, biases, ..self.0.architecture() }
    }
}

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    models: "Qwen 1.5, 2, 2.5, R1-Distill-Qwen",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "qwen2",
        known: shared_gguf::KNOWN,
        read: |settings, width, heads| shared_gguf::read(&SETTINGS, settings, [width, heads], None),
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings =
    SharedSettings { model_type: "qwen2", class: "Qwen2ForCausalLM", ..SharedSettings::LLAMA };

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    config.architecture.biases.qkv = true;
    config.architecture.attention.windows = read_windows(settings, config.layers)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, write_windows(config))
}

/// Windows of the layers from `max_window_layers` on, where they are used.
pub(super) fn read_windows(settings: &ConfigReader, layers: usize) -> Result<Vec<Option<usize>>> {
    let is_used = settings.flag_or("use_sliding_window", false)?;
    let window = if is_used { settings.optional_size("sliding_window", Some(4096))? } else { None };
    const FIRST: &str = "max_window_layers";
    let first = match settings.value(FIRST) {
        Value::Null => 28,
        number => number.as_u64().ok_or_else(|| settings.unsupported(FIRST, "a number of layers"))?,
    };
    windows(settings, layers, window, |layer| layer as u64 >= first)
}

/// The settings that [`read_windows`] reads.
pub(super) fn write_windows(config: &TransformerConfig) -> Value {
    let window = window(config);
    json!({
        "layer_types": layer_types(config),
        "sliding_window": window,
        "use_sliding_window": window.is_some(),
    })
}
