//! Phi-3 and Phi-4: Llama with fused projections. Abdin et al. 2024.

use super::shared::{SharedSettings, window};
use super::shared_gguf::{self, UsualWindows};
use super::{llama, mistral};
use crate::architecture::{Architecture, FusedProjections, QkvLayout, RopeScaling};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::rope_settings::RopeDefaults;
use crate::tensor_names::TensorNames;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

const TENSORS: TensorNames = &[
    ("blocks.#.attention.qkv", "model.layers.#.self_attn.qkv_proj"),
    ("blocks.#.mlp.gate_up", "model.layers.#.mlp.gate_up_proj"),
];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Phi-3, Phi-3.5 and Phi-4 (mini: contexts up to the original one)",
    read,
    write,
    tensors: &[TENSORS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "phi3",
        known: shared_gguf::KNOWN_WITH_WINDOWS,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::All, path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    default_epsilon: 1e-5,
    rope: RopeDefaults { is_partial: true, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let window = settings.optional_size("sliding_window", None)?;
    config.architecture.attention.windows = mistral::all_layers(window, config.layers);
    config.architecture.fused = FusedProjections { qkv: Some(QkvLayout::Stacked), gate_up: true };
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let mut settings = json!({ "sliding_window": window(config), "embd_pdrop": 0.0, "resid_pdrop": 0.0 });
    if let Some(RopeScaling::LongRope { original_context, .. }) = config.architecture.rotary().map(|r| &r.scaling) {
        settings["original_max_position_embeddings"] = json!(original_context);
    }
    SETTINGS.write(config, settings)
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    architecture.attention.windows = shared_gguf::read_windows(settings, UsualWindows::All)?;
    architecture.fused = FusedProjections { qkv: Some(QkvLayout::Stacked), gate_up: true };
    Ok(architecture)
}
