//! GPT-NeoX, of which Pythia is: attention and MLP side by side, partial rotary. Black et al. 2022.

use super::shared::{SharedSettings, attention_biases};
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::{Activation, Architecture, NormKind, QkvLayout, ResidualOrder};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::rope_settings::RopeDefaults;
use crate::tensor_names::TensorNames;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

const TENSORS: TensorNames = &[
    ("tokens", "gpt_neox.embed_in"),
    ("norm", "gpt_neox.final_layer_norm"),
    ("head", "embed_out"),
    ("blocks.#.norm_attention", "gpt_neox.layers.#.input_layernorm"),
    ("blocks.#.norm_mlp", "gpt_neox.layers.#.post_attention_layernorm"),
    ("blocks.#.attention.qkv", "gpt_neox.layers.#.attention.query_key_value"),
    ("blocks.#.attention.out", "gpt_neox.layers.#.attention.dense"),
    ("blocks.#.mlp.up", "gpt_neox.layers.#.mlp.dense_h_to_4h"),
    ("blocks.#.mlp.down", "gpt_neox.layers.#.mlp.dense_4h_to_h"),
];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Pythia, GPT-NeoX, RedPajama, Dolly 2",
    read,
    write,
    tensors: &[TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "gptneox",
        known: shared_gguf::KNOWN_PARALLEL,
        read: read_gguf,
        write: |config, path| {
            Ok([
                shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path)?,
                shared_gguf::write_parallel(config),
            ]
            .concat())
        },
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    norm: NormKind::Layer,
    epsilon: "layer_norm_eps",
    default_epsilon: 1e-5,
    default_activation: Activation::Gelu,
    gated: false,
    has_head_dim: false,
    rope: RopeDefaults {
        fraction: 0.25,
        keys: ["rotary_emb_base", "rotary_pct"],
        is_partial: true,
        ..RopeDefaults::PLAIN
    },
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("num_key_value_heads")?;
    let mut config = SETTINGS.read(settings)?;
    let architecture = &mut config.architecture;
    attention_biases(settings, &mut architecture.biases, true)?;
    architecture.biases.mlp = true;
    architecture.attention.key_value_heads = None;
    architecture.fused.qkv = Some(QkvLayout::PerHead);
    if settings.flag_or("use_parallel_residual", true)? {
        architecture.residual.order = ResidualOrder::Parallel;
    }
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let architecture = &config.architecture;
    let settings = json!({
        "attention_bias": architecture.biases.qkv,
        "hidden_dropout": 0.0,
        "num_key_value_heads": null,
        "use_parallel_residual": architecture.residual.order == ResidualOrder::Parallel,
    });
    SETTINGS.write(config, settings)
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    architecture.attention.key_value_heads = None;
    architecture.fused.qkv = Some(QkvLayout::PerHead);
    if shared_gguf::read_parallel(settings, true)? {
        architecture.residual.order = ResidualOrder::Parallel;
    }
    Ok(architecture)
}
