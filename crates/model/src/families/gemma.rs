//! Gemma: gains of 1 + w, a scaled embedding, a GELU gate. Gemma Team 2024.

use super::llama;
use super::shared::{SharedSettings, activation, activation_name, attention_biases};
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::{Activation, Architecture, NormKind};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Gemma 1",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "gemma",
        known: shared_gguf::KNOWN,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    norm: NormKind::RmsOnePlus,
    default_activation: Activation::GeluTanh,
    tied: true,
    head_width: Some(256),
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("use_bidirectional_attention")?;
    let mut config = SETTINGS.read(settings)?;
    let architecture = &mut config.architecture;
    if architecture.mlp.activation == Activation::Gelu {
        architecture.mlp.activation = Activation::GeluTanh; // the first releases say "gelu", and mean this one
    }
    if activation(settings, "hidden_activation", Activation::GeluTanh)? != architecture.mlp.activation {
        return Err(settings.unsupported("hidden_activation", "what hidden_act is"));
    }
    attention_biases(settings, &mut architecture.biases, false)?;
    architecture.embedding_multiplier = (config.width as f64).sqrt();
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let activation = activation_name(config.architecture.mlp.activation);
    SETTINGS.write(
        config,
        json!({
            "attention_bias": config.architecture.biases.qkv,
            "hidden_activation": activation,
        }),
    )
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let embedding_multiplier = (width as f64).sqrt();
    Ok(Architecture { embedding_multiplier, ..shared_gguf::read(&SETTINGS, settings, [width, heads], None)? })
}
