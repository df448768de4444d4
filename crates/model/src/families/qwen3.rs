//! Qwen3: Llama with norms on queries and keys. Yang et al. 2025.

use super::shared::{SharedSettings, attention_biases};
use super::{llama, qwen2};
use crate::Result;
use crate::architecture::QueryKeyNorm;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use crate::tensor_names::TensorNames;
use serde_json::{Value, json};

/// Norms of queries and keys.
pub(super) const QUERY_KEY_NORMS: TensorNames = &[
    ("blocks.#.attention.q_norm", "model.layers.#.self_attn.q_norm"),
    ("blocks.#.attention.k_norm", "model.layers.#.self_attn.k_norm"),
];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    read,
    write,
    tensors: &[QUERY_KEY_NORMS, llama::TENSORS],
    inputs_first: false,
    gguf: None,
};

const SETTINGS: SharedSettings =
    SharedSettings { model_type: "qwen3", class: "Qwen3ForCausalLM", head_width: Some(128), ..SharedSettings::LLAMA };

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let architecture = &mut config.architecture;
    architecture.norm.queries_and_keys = QueryKeyNorm::PerHead;
    attention_biases(settings, &mut architecture.biases, false)?;
    architecture.attention.windows = qwen2::read_windows(settings, config.layers)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let mut own = qwen2::write_windows(config);
    own["attention_bias"] = json!(config.architecture.biases.qkv);
    SETTINGS.write(config, own)
}
