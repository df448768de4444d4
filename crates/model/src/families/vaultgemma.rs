//! VaultGemma: Gemma 2 without norms after. VaultGemma Team 2025.

use super::shared::SharedSettings;
use super::{gemma2, llama};
use crate::Result;
use crate::architecture::{Activation, NormKind, NormPlacement};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::Value;

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "VaultGemma",
    read,
    write,
    tensors: &[gemma2::NORMS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "vaultgemma",
    class: "VaultGemmaForCausalLM",
    norm: NormKind::RmsOnePlus,
    activation: "hidden_activation",
    default_activation: Activation::GeluTanh,
    tied: true,
    head_width: Some(256),
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = gemma2::read_as(&SETTINGS, settings, [Some(50.0), Some(30.0)])?;
    config.architecture.norm.placement = NormPlacement::Before;
    config.architecture.attention.windows = gemma2::read_windows(settings, config.layers, 2)?;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, gemma2::write_own(config))
}
