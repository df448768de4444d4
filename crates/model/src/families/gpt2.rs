//! GPT-2: learned positions, layer norm, biases, one projection for queries, keys and values. Radford et al. 2019.

use super::shared::{activation, activation_name, divisor_heads};
use crate::architecture::{
    Activation, Architecture, AttentionSpec, BiasSpec, FusedProjections, LogitSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, PositionSpec, QkvLayout, QueryKeyNorm, ResidualOrder, ResidualSpec,
};
use crate::config::TransformerConfig;
use crate::config_reader::{ConfigReader, EPSILONS};
use crate::family::{Family, GgufFamily, HeaderEntries};
use crate::gguf_header::HeaderValue;
use crate::header_reader::HeaderReader;
use crate::{Error, Result, tensor_names};
use serde_json::{Value, json};
use std::path::Path;

/// What differs among models of the family, besides their sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpt2 {
    pub activation: Activation,
    /// Hidden units of the MLP.
    pub inner: usize,
    pub epsilon: f64,
}

impl Gpt2 {
    /// The choices of such a model.
    pub fn architecture(self) -> Architecture {
        let Self { activation, inner, epsilon } = self;
        Architecture {
            family: FAMILY.model_type,
            norm: NormSpec {
                kind: NormKind::Layer,
                epsilon,
                placement: NormPlacement::Before,
                queries_and_keys: QueryKeyNorm::None,
            },
            biases: BiasSpec { qkv: true, out: true, mlp: true, head: false },
            positions: PositionSpec::Learned { offset: 0 },
            attention: AttentionSpec::default(),
            mlp: MlpSpec { inner, gated: false, activation },
            residual: ResidualSpec { order: ResidualOrder::Serial, multiplier: 1.0 },
            embedding_multiplier: 1.0,
            logits: LogitSpec::PLAIN,
            fused: FusedProjections { qkv: Some(QkvLayout::Stacked), gate_up: false },
        }
    }
}

impl TransformerConfig {
    /// Duel's own models: GPT-2 with a squared ReLU.
    pub fn small(vocabulary: usize, context: usize, layers: usize, width: usize, heads: usize, tied: bool) -> Self {
        let gpt2 = Gpt2 { activation: Activation::SquaredRelu, inner: 4 * width, epsilon: 1e-5 };
        Self { vocabulary, context, layers, width, heads, tied, architecture: gpt2.architecture() }
    }
}

pub(super) const FAMILY: Family = Family {
    model_type: "gpt2",
    models: "GPT-2, DistilGPT-2; Duel's own",
    read,
    write,
    tensors: &[&[
        ("tokens", "transformer.wte"),
        ("positions", "transformer.wpe"),
        ("norm", "transformer.ln_f"),
        ("head", "lm_head"),
        ("blocks.#.norm_attention", "transformer.h.#.ln_1"),
        ("blocks.#.norm_mlp", "transformer.h.#.ln_2"),
        ("blocks.#.attention.qkv", "transformer.h.#.attn.c_attn"),
        ("blocks.#.attention.out", "transformer.h.#.attn.c_proj"),
        ("blocks.#.mlp.up", "transformer.h.#.mlp.c_fc"),
        ("blocks.#.mlp.down", "transformer.h.#.mlp.c_proj"),
    ]],
    inputs_first: true, // Conv1D
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "gpt2",
        known: &[&[
            "context_length",
            "embedding_length",
            "block_count",
            "feed_forward_length",
            "attention.head_count",
            "attention.layer_norm_epsilon",
            "vocab_size",
        ]],
        read: read_gguf,
        write: write_gguf,
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    for key in ["add_cross_attention", "scale_attn_by_inverse_layer_idx", "quantization_config"] {
        settings.unset(key)?;
    }
    settings.only("scale_attn_weights", &json!(true))?;
    let activation = activation(settings, "activation_function", Activation::GeluTanh)?;
    let width = settings.size("n_embd")?;
    let heads = divisor_heads(settings, "n_head", "n_embd", width)?;
    let epsilon = settings.number_or("layer_norm_epsilon", EPSILONS, 1e-5)?;
    Ok(TransformerConfig {
        vocabulary: settings.size("vocab_size")?,
        context: settings.size("n_positions")?,
        layers: settings.size("n_layer")?,
        width,
        heads,
        tied: settings.flag_or("tie_word_embeddings", true)?,
        architecture: Gpt2 { activation, inner: settings.size_or("n_inner", 4 * width)?, epsilon }.architecture(),
    })
}

fn write(config: &TransformerConfig) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation_name(config.architecture.mlp.activation),
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "layer_norm_epsilon": config.epsilon(),
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": config.inner(),
        "n_layer": config.layers,
        "n_positions": config.context,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocabulary,
        "dtype": "float32",
    })
}

fn read_gguf(settings: &HeaderReader<'_>, _: usize, _: usize) -> Result<Architecture> {
    let inner = settings.size("feed_forward_length")?;
    let epsilon = settings.number("attention.layer_norm_epsilon", &EPSILONS)?;
    Ok(Gpt2 { activation: Activation::GeluTanh, inner, epsilon }.architecture())
}

fn write_gguf(config: &TransformerConfig, path: &Path) -> Result<HeaderEntries> {
    if config.architecture.mlp.activation != Activation::GeluTanh {
        let accepted = "GPT-2's own activation: GGUF has no name for another".into();
        let (key, value) = ("activation".into(), format!("{:?}", config.architecture.mlp.activation));
        return Err(Error::Unsupported { path: path.into(), key, found: value, accepted });
    }
    Ok(vec![
        ("feed_forward_length", HeaderValue::Size(config.inner())),
        ("attention.layer_norm_epsilon", HeaderValue::Real(config.epsilon())),
    ])
}
