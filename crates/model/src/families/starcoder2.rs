//! StarCoder2: layer norms, biases everywhere, a plain MLP, grouped queries. Lozhkov et al. 2024.

use super::shared::{SharedSettings, window};
use super::{llama, mistral};
use crate::Result;
use crate::architecture::{Activation, BiasSpec, NormKind};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use crate::tensor_names::TensorNames;
use serde_json::{Value, json};

const MLP: TensorNames =
    &[("blocks.#.mlp.up", "model.layers.#.mlp.c_fc"), ("blocks.#.mlp.down", "model.layers.#.mlp.c_proj")];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "StarCoder2",
    read,
    write,
    tensors: &[MLP, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "starcoder2",
    class: "Starcoder2ForCausalLM",
    norm: NormKind::Layer,
    epsilon: "norm_epsilon",
    default_epsilon: 1e-5,
    default_activation: Activation::GeluTanh,
    gated: false,
    tied: true,
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = SETTINGS.read(settings)?;
    let bias = settings.flag_or("use_bias", true)?;
    let window = settings.optional_size("sliding_window", None)?;
    let architecture = &mut config.architecture;
    architecture.biases = BiasSpec { qkv: bias, out: bias, mlp: bias, head: false };
    architecture.attention.windows = mistral::all_layers(window, config.layers);
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let settings = json!({
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "sliding_window": window(config),
        "use_bias": config.architecture.biases.qkv,
    });
    SETTINGS.write(config, settings)
}
