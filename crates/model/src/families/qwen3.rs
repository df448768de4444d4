//! Qwen3: Llama with norms on queries and keys. Yang et al. 2025.

use super::shared::{SharedSettings, attention_biases};
use super::shared_gguf::{self, UsualWindows};
use super::{llama, qwen2};
use crate::architecture::{Architecture, QueryKeyNorm};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::tensor_names::TensorNames;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

/// Norms of queries and keys.
pub(super) const QUERY_KEY_NORMS: TensorNames = &[
    ("blocks.#.attention.q_norm", "model.layers.#.self_attn.q_norm"),
    ("blocks.#.attention.k_norm", "model.layers.#.self_attn.k_norm"),
];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Qwen3",
    read,
    write,
    tensors: &[QUERY_KEY_NORMS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "qwen3",
        known: shared_gguf::KNOWN,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
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
    let mut settings = qwen2::write_windows(config);
    settings["attention_bias"] = json!(config.architecture.biases.qkv);
    SETTINGS.write(config, settings)
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    architecture.norm.queries_and_keys = QueryKeyNorm::PerHead;
    Ok(architecture)
}
