//! Phi 1, 1.5 and 2: attention and MLP side by side under one norm, partial rotary. Gunasekar et al. 2023.

use super::llama;
use super::shared::SharedSettings;
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::{Activation, Architecture, BiasSpec, NormKind, ResidualOrder};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::rope_settings::RopeDefaults;
use crate::tensor_names::TensorNames;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

const TENSORS: TensorNames = &[
    ("norm", "model.final_layernorm"),
    ("blocks.#.attention.out", "model.layers.#.self_attn.dense"),
    ("blocks.#.mlp.up", "model.layers.#.mlp.fc1"),
    ("blocks.#.mlp.down", "model.layers.#.mlp.fc2"),
];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Phi 1, 1.5 and 2",
    read,
    write,
    tensors: &[TENSORS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "phi2",
        known: shared_gguf::KNOWN,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "phi",
    class: "PhiForCausalLM",
    norm: NormKind::Layer,
    epsilon: "layer_norm_eps",
    default_epsilon: 1e-5,
    default_activation: Activation::GeluTanh,
    gated: false,
    rope: RopeDefaults { fraction: 0.5, is_partial: true, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("qk_layernorm")?;
    settings.unset("tie_word_embeddings")?; // its head has a bias
    let mut config = SETTINGS.read(settings)?;
    config.architecture.biases = BiasSpec { qkv: true, out: true, mlp: true, head: true };
    config.architecture.residual.order = ResidualOrder::ParallelSharedNorm;
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, json!({ "qk_layernorm": false, "embd_pdrop": 0.0, "resid_pdrop": 0.0 }))
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    architecture.residual.order = ResidualOrder::ParallelSharedNorm;
    Ok(architecture)
}
