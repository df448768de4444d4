//! GPT-Neo: GPT-2 with every other layer local, and scores that are not scaled. Black et al. 2021.

use super::gpt2::Gpt2;
use super::shared::{activation, activation_name, divisor_heads, window};
use crate::Result;
use crate::architecture::{Activation, Architecture, AttentionSpec, BiasSpec, FusedProjections};
use crate::config::TransformerConfig;
use crate::config_reader::{ConfigReader, EPSILONS};
use crate::family::Family;
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_neo",
    models: "GPT-Neo, TinyStories",
    read,
    write,
    tensors: &[&[
        ("tokens", "transformer.wte"),
        ("positions", "transformer.wpe"),
        ("norm", "transformer.ln_f"),
        ("head", "lm_head"),
        ("blocks.#.norm_attention", "transformer.h.#.ln_1"),
        ("blocks.#.norm_mlp", "transformer.h.#.ln_2"),
        ("blocks.#.attention.q", "transformer.h.#.attn.attention.q_proj"),
        ("blocks.#.attention.k", "transformer.h.#.attn.attention.k_proj"),
        ("blocks.#.attention.v", "transformer.h.#.attn.attention.v_proj"),
        ("blocks.#.attention.out", "transformer.h.#.attn.attention.out_proj"),
        ("blocks.#.mlp.up", "transformer.h.#.mlp.c_fc"),
        ("blocks.#.mlp.down", "transformer.h.#.mlp.c_proj"),
    ]],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

/// Kinds of layers in turn, and how often: `[[["global", "local"], 12]]`.
const ATTENTION_TYPES: &str = "attention_types";

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("quantization_config")?;
    let (width, layers) = (settings.size("hidden_size")?, settings.size("num_layers")?);
    let heads = divisor_heads(settings, "num_heads", "hidden_size", width)?;
    let gpt2 = Gpt2 {
        activation: activation(settings, "activation_function", Activation::GeluTanh)?,
        inner: settings.size_or("intermediate_size", 4 * width)?,
        epsilon: settings.number_or("layer_norm_epsilon", EPSILONS, 1e-5)?,
    };
    let size = settings.size_or("window_size", 256)?;
    let is_local = local_layers(settings, layers)?;
    let windows = match is_local.contains(&true) {
        true => is_local.into_iter().map(|is_local| is_local.then_some(size)).collect(),
        false => vec![],
    };
    Ok(TransformerConfig {
        vocabulary: settings.size("vocab_size")?,
        context: settings.size("max_position_embeddings")?,
        layers,
        width,
        heads,
        tied: settings.flag_or("tie_word_embeddings", true)?,
        architecture: Architecture {
            family: FAMILY.model_type,
            biases: BiasSpec { qkv: false, out: true, mlp: true, head: false },
            attention: AttentionSpec { windows, scale: Some(1.0), ..AttentionSpec::default() },
            fused: FusedProjections::default(),
            ..gpt2.architecture()
        },
    })
}

/// Which layers have a window.
fn local_layers(settings: &ConfigReader, layers: usize) -> Result<Vec<bool>> {
    let default = json!([[["global", "local"], 12]]);
    let json = settings.value(ATTENTION_TYPES);
    let groups = if json.is_null() { &default } else { json };
    let group = |group: &Value| {
        let kinds: Option<Vec<bool>> = group[0].as_array()?.iter().map(is_local).collect();
        let times = group[1].as_u64().filter(|times| *times <= layers as u64)?;
        Some(kinds?.repeat(times as usize))
    };
    let all: Option<Vec<Vec<bool>>> = groups.as_array().and_then(|groups| groups.iter().map(group).collect());
    let all = all.map(|groups| groups.concat()).filter(|all| all.len() == layers);
    all.ok_or_else(|| {
        let accepted = format!("\"global\" and \"local\" in groups that make {layers} layers");
        settings.unsupported(ATTENTION_TYPES, &accepted)
    })
}

fn is_local(kind: &Value) -> Option<bool> {
    match kind.as_str() {
        Some("local") => Some(true),
        Some("global") => Some(false),
        _ => None,
    }
}

fn write(config: &TransformerConfig) -> Value {
    let architecture = &config.architecture;
    let kind = |layer: usize| if architecture.window(layer).is_some() { "local" } else { "global" };
    let kinds: Vec<&str> = (0..config.layers).map(kind).collect();
    let mut json = json!({
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": FAMILY.model_type,
        "activation_function": activation_name(architecture.mlp.activation),
        "attention_dropout": 0.0,
        "attention_layers": kinds,
        "attention_types": [[kinds, 1]],
        "embed_dropout": 0.0,
        "hidden_size": config.width,
        "intermediate_size": config.inner(),
        "layer_norm_epsilon": config.epsilon(),
        "max_position_embeddings": config.context,
        "num_heads": config.heads,
        "num_layers": config.layers,
        "resid_dropout": 0.0,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocabulary,
        "dtype": "float32",
    });
    if let Some(window) = window(config) {
        json["window_size"] = json!(window);
    }
    json
}
