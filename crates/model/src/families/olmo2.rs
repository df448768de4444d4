//! OLMo 2: norms after attention and MLP, and on queries and keys. OLMo Team 2024.

use super::shared::{SharedSettings, attention_biases};
use super::{gemma2, llama, qwen3};
use crate::Result;
use crate::architecture::{NormPlacement, QueryKeyNorm};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    read,
    write,
    tensors: &[qwen3::QUERY_KEY_NORMS, gemma2::NORMS, llama::TENSORS],
    inputs_first: false,
    gguf: None,
};

const SETTINGS: SharedSettings =
    SharedSettings { model_type: "olmo2", class: "Olmo2ForCausalLM", default_epsilon: 1e-5, ..SharedSettings::LLAMA };

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let architecture = &mut config.architecture;
    architecture.norm.placement = NormPlacement::After;
    architecture.norm.queries_and_keys = QueryKeyNorm::Joint;
    attention_biases(settings, &mut architecture.biases, false)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, json!({ "attention_bias": config.architecture.biases.qkv }))
}
