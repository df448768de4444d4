//! Gemma 2: norms before and after, soft caps, every other layer with a window. Gemma Team 2024.

use super::llama;
use super::shared::{SCALES, SharedSettings, attention_biases, layer_types, short_decimal, whole, window, windows};
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::{Activation, Architecture, NormKind, NormPlacement};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::tensor_names::TensorNames;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

/// The four norms of a block.
pub(super) const NORMS: TensorNames = &[
    ("blocks.#.norm_attention_out", "model.layers.#.post_attention_layernorm"),
    ("blocks.#.norm_mlp", "model.layers.#.pre_feedforward_layernorm"),
    ("blocks.#.norm_mlp_out", "model.layers.#.post_feedforward_layernorm"),
];

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Gemma 2",
    read,
    write,
    tensors: &[NORMS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "gemma2",
        known: shared_gguf::KNOWN_GEMMA,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::AllBut(WINDOWS), path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: Some(|config| usual_scale(config, LAYERS_27B)),
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    norm: NormKind::RmsOnePlus,
    activation: "hidden_activation",
    default_activation: Activation::GeluTanh,
    tied: true,
    head_width: Some(256),
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = read_as(&SETTINGS, settings, [Some(50.0), Some(30.0)])?;
    config.architecture.attention.windows = read_windows(settings, config.layers, 2)?;
    Ok(config)
}

/// What Gemma 2 and 3 have in common; `soft_caps` of scores and logits where they are not given.
pub(super) fn read_as(
    shared: &SharedSettings,
    settings: &ConfigReader,
    soft_caps: [Option<f64>; 2],
) -> Result<TransformerConfig> {
    settings.unset("use_bidirectional_attention")?;
    let mut config = shared.read(settings)?;
    let architecture = &mut config.architecture;
    architecture.norm.placement = NormPlacement::Both;
    attention_biases(settings, &mut architecture.biases, false)?;
    let scalar = settings.number_or("query_pre_attn_scalar", SCALES, 256.0)?;
    architecture.attention.scale = Some(scalar.powf(-0.5));
    architecture.attention.soft_cap = settings.optional_number("attn_logit_softcapping", SCALES, soft_caps[0])?;
    architecture.logits.soft_cap = settings.optional_number("final_logit_softcapping", SCALES, soft_caps[1])?;
    architecture.embedding_multiplier = (config.width as f64).sqrt();
    Ok(config)
}

/// Windows of all layers but each `pattern`-th.
pub(super) fn read_windows(settings: &ConfigReader, layers: usize, pattern: usize) -> Result<Vec<Option<usize>>> {
    let window = settings.optional_size("sliding_window", Some(4096))?;
    windows(settings, layers, window, |layer| !(layer + 1).is_multiple_of(pattern))
}

fn write(config: &TransformerConfig) -> Value {
    SETTINGS.write(config, write_own(config))
}

/// The settings that [`read_as`] and [`read_windows`] read.
pub(super) fn write_own(config: &TransformerConfig) -> Value {
    let attention = &config.architecture.attention;
    json!({
        "attention_bias": config.architecture.biases.qkv,
        "attn_logit_softcapping": attention.soft_cap,
        "final_logit_softcapping": config.architecture.logits.soft_cap,
        "layer_types": layer_types(config),
        "query_pre_attn_scalar": attention.scale.map(|scale| whole(short_decimal(scale.powi(-2)))),
        "sliding_window": window(config),
    })
}

/// Each layer of this number has no window.
const WINDOWS: usize = 2;
/// Layers of the model of 27 billion parameters, whose scores are scaled by width / heads.
const LAYERS_27B: usize = 46;

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    read_gguf_as(settings, &mut architecture, [width, heads], LAYERS_27B, [Some(50.0), Some(30.0)])?;
    architecture.attention.windows = shared_gguf::read_windows(settings, UsualWindows::AllBut(WINDOWS))?;
    Ok(architecture)
}

/// What Gemma 2 and 3 have in common in GGUF files.
pub(super) fn read_gguf_as(
    settings: &HeaderReader<'_>,
    architecture: &mut Architecture,
    [width, heads]: [usize; 2],
    layers_27b: usize,
    soft_caps: [Option<f64>; 2],
) -> Result<()> {
    architecture.norm.placement = NormPlacement::Both;
    architecture.embedding_multiplier = (width as f64).sqrt();
    let head_width = architecture.attention.head_width.unwrap_or(width / heads);
    let usual = scale([width, heads, head_width], settings.size("block_count")? == layers_27b);
    shared_gguf::read_caps(settings, architecture, soft_caps, usual)
}

/// The factor of the scores, of a model of 27 billion parameters or another.
fn scale([width, heads, head_width]: [usize; 3], is_27b: bool) -> f64 {
    (if is_27b { width / heads } else { head_width } as f64).powf(-0.5)
}

/// The factor of the scores that llama.cpp takes.
pub(super) fn usual_scale(config: &TransformerConfig, layers_27b: usize) -> f64 {
    scale([config.width, config.heads, config.head_width()], config.layers == layers_27b)
}
