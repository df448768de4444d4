//! SmolLM3: Llama with layers that know no positions. Bakouch et al. 2025.

use super::shared::{SharedSettings, windows};
use super::shared_gguf::{self, UsualWindows};
use super::{llama, qwen2};
use crate::architecture::{Architecture, BiasSpec};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily, HeaderEntries};
use crate::header_reader::HeaderReader;
use crate::rope_settings::RopeDefaults;
use crate::{Error, Result, tensor_names};
use serde_json::{Value, json};
use std::path::Path;

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "SmolLM3",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "smollm3",
        known: shared_gguf::KNOWN,
        read: read_gguf,
        write: write_gguf,
        tensors: tensor_names::GGUF,
        interleaved: true,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    tied: true,
    rope: RopeDefaults { theta: 2e6, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};
/// 1 for each layer with rotary positions, 0 for each without.
const ROPE_LAYERS: &str = "no_rope_layers";

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = llama::read_as(&SETTINGS, settings)?;
    let layers = config.layers;
    let has_rope: Vec<bool> = match settings.value(ROPE_LAYERS) {
        Value::Null => {
            let interval = settings.size_or("no_rope_layer_interval", 4)?;
            (0..layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect()
        }
        Value::Array(list) if list.len() == layers && list.iter().all(|one| *one == 0 || *one == 1) => {
            list.iter().map(|one| *one == 1).collect()
        }
        _ => return Err(settings.unsupported(ROPE_LAYERS, &format!("0 or 1 for each of the {layers} layers"))),
    };
    let architecture = &mut config.architecture;
    let is_used = settings.flag_or("use_sliding_window", false)?;
    let window = if is_used { settings.optional_size("sliding_window", None)? } else { None };
    architecture.attention.windows = windows(settings, layers, window, |layer| !has_rope[layer])?;
    if let Some(rotary) = architecture.rotary_mut() {
        rotary.skipped_layers = (0..layers).filter(|layer| !has_rope[*layer]).collect();
    }
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let skipped = config.architecture.rotary().map_or(&[][..], |rotary| &rotary.skipped_layers);
    let has_rope: Vec<u8> = (0..config.layers).map(|layer| u8::from(!skipped.contains(&layer))).collect();
    let BiasSpec { qkv, mlp, .. } = config.architecture.biases;
    let mut settings = qwen2::write_windows(config);
    settings[ROPE_LAYERS] = json!(has_rope);
    settings["attention_bias"] = json!(qkv);
    settings["mlp_bias"] = json!(mlp);
    SETTINGS.write(config, settings)
}

/// Each such layer has no positions, in GGUF files.
const SKIPPED: usize = 4;

fn skipped_layers(layers: usize) -> Vec<usize> {
    (0..layers).filter(|layer| (layer + 1).is_multiple_of(SKIPPED)).collect()
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    if let Some(rotary) = architecture.rotary_mut() {
        rotary.skipped_layers = skipped_layers(settings.size("block_count")?);
    }
    Ok(architecture)
}

fn write_gguf(config: &TransformerConfig, path: &Path) -> Result<HeaderEntries> {
    let skipped = config.architecture.rotary().map(|rotary| &rotary.skipped_layers);
    if skipped != Some(&skipped_layers(config.layers)) {
        let (key, value) = (ROPE_LAYERS.into(), format!("{skipped:?}"));
        let accepted = format!("each {SKIPPED}th layer: GGUF has no name for others");
        return Err(Error::Unsupported { path: path.into(), key, found: value, accepted });
    }
    shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path)
}
