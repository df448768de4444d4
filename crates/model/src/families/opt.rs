//! OPT: GPT-2 with a ReLU, and positions from row 2 on. Zhang et al. 2022.

use super::gpt2::Gpt2;
use super::shared::{activation, activation_name, divisor_heads};
use crate::Result;
use crate::architecture::{Activation, Architecture, FusedProjections, PositionSpec};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: "opt",
    models: "OPT but the one of 350 M",
    read,
    write,
    tensors: &[&[
        ("tokens", "model.decoder.embed_tokens"),
        ("positions", "model.decoder.embed_positions"),
        ("norm", "model.decoder.final_layer_norm"),
        ("head", "lm_head"),
        ("blocks.#.norm_attention", "model.decoder.layers.#.self_attn_layer_norm"),
        ("blocks.#.norm_mlp", "model.decoder.layers.#.final_layer_norm"),
        ("blocks.#.attention.q", "model.decoder.layers.#.self_attn.q_proj"),
        ("blocks.#.attention.k", "model.decoder.layers.#.self_attn.k_proj"),
        ("blocks.#.attention.v", "model.decoder.layers.#.self_attn.v_proj"),
        ("blocks.#.attention.out", "model.decoder.layers.#.self_attn.out_proj"),
        ("blocks.#.mlp.up", "model.decoder.layers.#.fc1"),
        ("blocks.#.mlp.down", "model.decoder.layers.#.fc2"),
    ]],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("quantization_config")?;
    for (key, value) in [
        ("do_layer_norm_before", true), // only the 350 M model norms after
        ("enable_bias", true),
        ("layer_norm_elementwise_affine", true),
        ("_remove_final_layer_norm", false),
    ] {
        settings.only(key, &json!(value))?;
    }
    let width = settings.size("hidden_size")?;
    let heads = divisor_heads(settings, "num_attention_heads", "hidden_size", width)?;
    settings.only("word_embed_proj_dim", &json!(width))?;
    let gpt2 = Gpt2 {
        activation: activation(settings, "activation_function", Activation::Relu)?,
        inner: settings.size("ffn_dim")?,
        epsilon: 1e-5,
    };
    Ok(TransformerConfig {
        vocabulary: settings.size("vocab_size")?,
        context: settings.size("max_position_embeddings")?,
        layers: settings.size("num_hidden_layers")?,
        width,
        heads,
        tied: settings.flag_or("tie_word_embeddings", true)?,
        architecture: Architecture {
            family: FAMILY.model_type,
            positions: PositionSpec::Learned { offset: 2 },
            fused: FusedProjections::default(),
            ..gpt2.architecture()
        },
    })
}

fn write(config: &TransformerConfig) -> Value {
    json!({
        "architectures": ["OPTForCausalLM"],
        "model_type": FAMILY.model_type,
        "activation_function": activation_name(config.architecture.mlp.activation),
        "attention_dropout": 0.0,
        "do_layer_norm_before": true,
        "dropout": 0.0,
        "enable_bias": true,
        "ffn_dim": config.inner(),
        "hidden_size": config.width,
        "layerdrop": 0.0,
        "max_position_embeddings": config.context,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocabulary,
        "word_embed_proj_dim": config.width,
        "dtype": "float32",
    })
}
