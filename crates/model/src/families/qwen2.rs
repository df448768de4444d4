//! Qwen2: Llama with biases on queries, keys and values. Yang et al. 2024.

use super::llama::{self, Llama};
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
    read,
    write,
    tensors: llama::TENSORS,
    classifier: Some("Qwen2ForSequenceClassification"),
    inputs_first: false,
    gguf: Some(GgufFamily {
        architecture: "qwen2",
        known: llama::KNOWN,
        read: |settings, width, heads| Ok(Qwen2(llama::read_gguf(settings, width, heads)?).architecture()),
        write: llama::write_gguf,
        tensors: tensor_names::GGUF,
        interleaved: false,
    }),
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("use_sliding_window")?;
    // which layers have a window, where there is one
    let full = |kind: &Value| kind == "full_attention";
    let types = &settings.json["layer_types"];
    if !types.is_null() && !types.as_array().is_some_and(|types| types.iter().all(full)) {
        return Err(settings.unsupported("layer_types", "\"full_attention\" for each layer"));
    }
    llama::read_sizes(settings, |llama| Qwen2(llama).architecture())
}

fn write(config: &TransformerConfig) -> Value {
    let own = json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "sliding_window": null,
        "use_sliding_window": false,
    });
    llama::with_sizes(config, own)
}
