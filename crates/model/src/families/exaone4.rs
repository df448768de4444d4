//! EXAONE 4: norms after attention and MLP, positions in layers with a window alone. LG AI Research 2025.

use super::shared::{SharedSettings, layer_types, window, windows};
use super::{gemma2, llama, qwen3};
use crate::Result;
use crate::architecture::{NormPlacement, QueryKeyNorm};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "EXAONE 4",
    read,
    write,
    tensors: &[qwen3::QUERY_KEY_NORMS, gemma2::NORMS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "exaone4",
    class: "Exaone4ForCausalLM",
    default_epsilon: 1e-5,
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let layers = config.layers;
    let architecture = &mut config.architecture;
    architecture.norm.placement = NormPlacement::After;
    architecture.norm.queries_and_keys = QueryKeyNorm::PerHead;
    let window = settings.optional_size("sliding_window", Some(4096))?;
    let pattern = settings.size_or("sliding_window_pattern", 4)?;
    architecture.attention.windows = windows(settings, layers, window, |layer| !(layer + 1).is_multiple_of(pattern))?;
    let full_layers = (0..layers).filter(|layer| architecture.window(*layer).is_none()).collect();
    if let (Some(rotary), true) = (architecture.rotary_mut(), window.is_some()) {
        rotary.skipped_layers = full_layers;
    }
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let settings = json!({
        "layer_types": layer_types(config),
        "sliding_window": window(config),
        "sliding_window_pattern": null,
    });
    SETTINGS.write(config, settings)
}
