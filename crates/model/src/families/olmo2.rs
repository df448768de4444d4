//! OLMo 2: norms after attention and MLP, and on queries and keys. OLMo Team 2024.

use super::shared::{SharedSettings, attention_biases};
use super::shared_gguf::{self, UsualWindows};
use super::{gemma2, llama, qwen3};
use crate::architecture::{Architecture, NormPlacement, QueryKeyNorm};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "OLMo 2",
    read,
    write,
    tensors: &[qwen3::QUERY_KEY_NORMS, gemma2::NORMS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "olmo2",
        known: shared_gguf::KNOWN,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings =
    SharedSettings { model_type: "olmo2", class: "Olmo2ForCausalLM", default_epsilon: 1e-5, ..SharedSettings::LLAMA };

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    read_as(&SETTINGS, settings)
}

/// What OLMo 2 and 3 have in common.
pub(super) fn read_as(shared: &SharedSettings, settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = shared.read(settings)?;
    let architecture = &mut config.architecture;
    architecture.norm.placement = NormPlacement::After;
    architecture.norm.queries_and_keys = QueryKeyNorm::Joint;
    attention_biases(settings, &mut architecture.biases, false)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, json!({ "attention_bias": config.architecture.biases.qkv }))
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    architecture.norm.placement = NormPlacement::After;
    architecture.norm.queries_and_keys = QueryKeyNorm::Joint;
    Ok(architecture)
}
