//! Granite: Llama with multipliers. Granite Team 2024.

use super::llama;
use super::shared::{SCALES, SharedSettings, short_decimal};
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::Architecture;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Granite 3",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "granite",
        known: shared_gguf::KNOWN_MULTIPLIERS,
        read: read_gguf,
        write: |config, path| {
            Ok([
                shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path)?,
                shared_gguf::write_multipliers(config),
            ]
            .concat())
        },
        tensors: tensor_names::GGUF,
        interleaved: true,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings =
    SharedSettings { model_type: "granite", class: "GraniteForCausalLM", ..SharedSettings::LLAMA };

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = llama::read_as(&SETTINGS, settings)?;
    let architecture = &mut config.architecture;
    let multiplier = |key: &str| settings.number_or(key, SCALES, 1.0);
    architecture.embedding_multiplier = multiplier("embedding_multiplier")?;
    architecture.residual.multiplier = multiplier("residual_multiplier")?;
    architecture.attention.scale = Some(multiplier("attention_multiplier")?);
    architecture.logits.multiplier = 1.0 / multiplier("logits_scaling")?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let architecture = &config.architecture;
    let mut settings = llama::write_biases(config);
    settings["embedding_multiplier"] = json!(architecture.embedding_multiplier);
    settings["residual_multiplier"] = json!(architecture.residual.multiplier);
    settings["attention_multiplier"] = json!(architecture.attention.scale);
    settings["logits_scaling"] = json!(short_decimal(1.0 / architecture.logits.multiplier));
    SETTINGS.write(config, settings)
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    shared_gguf::read_multipliers(settings, &mut architecture)?;
    Ok(architecture)
}
