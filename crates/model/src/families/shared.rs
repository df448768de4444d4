//! Settings that most families share: how they are read from `config.json` and written there.

use crate::Result;
use crate::architecture::{
    Activation, Architecture, AttentionSpec, BiasSpec, FusedProjections, LogitSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, PositionSpec, QueryKeyNorm, ResidualOrder, ResidualSpec, RopeScaling,
};
use crate::config::TransformerConfig;
use crate::config_reader::{ConfigReader, EPSILONS};
use crate::rope_settings::{self, RopeDefaults};
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// What a family's settings are called, and what they are where they are not given.
#[derive(Debug)]
pub(super) struct SharedSettings {
    pub model_type: &'static str,
    /// `architectures` of its language models.
    pub class: &'static str,
    pub norm: NormKind,
    /// Key of what norms add to the variance.
    pub epsilon: &'static str,
    pub default_epsilon: f64,
    /// Key of the activation function.
    pub activation: &'static str,
    pub default_activation: Activation,
    pub gated: bool,
    pub tied: bool,
    /// Units of a head; `None`: width / heads.
    pub head_width: Option<usize>,
    /// Whether `head_dim` may be other than width / heads.
    pub has_head_dim: bool,
    pub rope: RopeDefaults,
}

impl SharedSettings {
    /// Llama's.
    pub const LLAMA: Self = Self {
        model_type: "llama",
        class: "LlamaForCausalLM",
        norm: NormKind::Rms,
        epsilon: "rms_norm_eps",
        default_epsilon: 1e-6,
        activation: "hidden_act",
        default_activation: Activation::Silu,
        gated: true,
        tied: false,
        head_width: None,
        has_head_dim: true,
        rope: RopeDefaults::PLAIN,
    };

    /// The model, as a Llama with this family's norm, activation and defaults.
    ///
    /// # Errors
    /// A size that is missing, a value that is not computed.
    pub fn read(&self, settings: &ConfigReader) -> Result<TransformerConfig> {
        settings.unset("quantization_config")?;
        let (width, heads) = (settings.size("hidden_size")?, settings.size("num_attention_heads")?);
        let key_value_heads = settings.size_or("num_key_value_heads", heads)?;
        if heads % key_value_heads != 0 {
            let accepted = format!("a divisor of num_attention_heads, {heads}");
            return Err(settings.unsupported("num_key_value_heads", &accepted));
        }
        let head_width = settings.size_or("head_dim", self.head_width.unwrap_or(width / heads))?;
        if head_width == 0 {
            let accepted = format!("at most hidden_size, {width}, without head_dim");
            return Err(settings.unsupported("num_attention_heads", &accepted));
        }
        if head_width % 2 != 0 {
            return Err(settings.unsupported("head_dim", "an even size"));
        }
        if !self.has_head_dim && head_width * heads != width {
            let accepted = format!("hidden_size / num_attention_heads, {width} / {heads}, without a remainder");
            return Err(settings.unsupported("head_dim", &accepted));
        }
        let context = settings.size("max_position_embeddings")?;
        let rotary = rope_settings::read(settings, &self.rope, head_width, context)?;
        Ok(TransformerConfig {
            vocabulary: settings.size("vocab_size")?,
            context: rotary.scaling.context(context),
            layers: settings.size("num_hidden_layers")?,
            width,
            heads,
            tied: settings.flag_or("tie_word_embeddings", self.tied)?,
            architecture: Architecture {
                family: self.model_type,
                norm: NormSpec {
                    kind: self.norm,
                    epsilon: settings.number_or(self.epsilon, EPSILONS, self.default_epsilon)?,
                    placement: NormPlacement::Before,
                    queries_and_keys: QueryKeyNorm::None,
                },
                biases: BiasSpec::default(),
                positions: PositionSpec::Rotary(rotary),
                attention: AttentionSpec {
                    key_value_heads: Some(key_value_heads),
                    head_width: Some(head_width),
                    ..AttentionSpec::default()
                },
                mlp: MlpSpec {
                    inner: settings.size("intermediate_size")?,
                    gated: self.gated,
                    activation: activation(settings, self.activation, self.default_activation)?,
                },
                residual: ResidualSpec { order: ResidualOrder::Serial, multiplier: 1.0 },
                embedding_multiplier: 1.0,
                logits: LogitSpec::PLAIN,
                fused: FusedProjections::default(),
            },
        })
    }

    /// The settings that [`Self::read`] reads, and those of the family itself.
    pub fn write(&self, config: &TransformerConfig, settings: Value) -> Value {
        let architecture = &config.architecture;
        let mut json = json!({
            "architectures": [self.class],
            "model_type": self.model_type,
            "attention_dropout": 0.0,
            "hidden_size": config.width,
            "intermediate_size": config.inner(),
            "max_position_embeddings": config.context,
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.layers,
            "num_key_value_heads": config.key_value_heads(),
            "tie_word_embeddings": config.tied,
            "vocab_size": config.vocabulary,
            "dtype": "float32",
        });
        json[self.activation] = json!(activation_name(architecture.mlp.activation));
        json[self.epsilon] = json!(config.epsilon());
        if self.has_head_dim {
            json["head_dim"] = json!(config.head_width());
        }
        if let Some(rotary) = architecture.rotary() {
            let block = rope_settings::write(rotary);
            json["max_position_embeddings"] = json!(rotary.scaling.longest(config.context));
            json[self.rope.keys[0]] = json!(rotary.theta);
            if rotary.fraction != 1.0 || self.rope.fraction != 1.0 {
                json[self.rope.keys[1]] = json!(rotary.fraction);
            }
            // transformers before 5 reads this one
            if rotary.scaling != RopeScaling::None {
                json["rope_scaling"] = rope_settings::write_unwindowed(rotary);
            }
            json["rope_parameters"] = block;
        }
        if let (Value::Object(json), Value::Object(settings)) = (&mut json, settings) {
            json.extend(settings);
        }
        json
    }
}

/// The heads under a key, between which the `width` under another is divided.
pub(super) fn divisor_heads(settings: &ConfigReader, key: &str, width_key: &str, width: usize) -> Result<usize> {
    let heads = settings.size(key)?;
    match width.is_multiple_of(heads) {
        true => Ok(heads),
        false => Err(settings.unsupported(key, &format!("a divisor of {width_key}, {width}"))),
    }
}

/// Multipliers, soft caps and scales that are read.
pub(super) const SCALES: RangeInclusive<f64> = 1e-6..=1e6;

/// A number without the last digits of rounding, so that an inverse is written as the number that was inverted.
pub(super) fn short_decimal(x: f64) -> f64 {
    format!("{x:.12e}").parse().unwrap_or(x)
}

/// A number as JSON, without a fraction where it has none: transformers refuses 24.0 where it expects 24.
pub(super) fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

/// Activation functions by the names that transformers gives them; the first of each is written.
const ACTIVATIONS: [(&str, Activation); 9] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("relu", Activation::Relu),
    ("relu2", Activation::SquaredRelu),
];

/// The activation function under a key.
pub(super) fn activation(settings: &ConfigReader, key: &str, default: Activation) -> Result<Activation> {
    let name = settings.value(key);
    if name.is_null() {
        return Ok(default);
    }
    let activation = ACTIVATIONS.iter().find(|(known, _)| name == known).map(|(_, activation)| *activation);
    activation.ok_or_else(|| settings.unsupported(key, &ACTIVATIONS.map(|(name, _)| format!("\"{name}\"")).join(", ")))
}

pub(super) fn activation_name(activation: Activation) -> &'static str {
    ACTIVATIONS.iter().find(|(_, known)| *known == activation).map_or("", |(name, _)| name)
}

/// `attention_bias`: on queries, keys, values and the output.
pub(super) fn attention_biases(settings: &ConfigReader, biases: &mut BiasSpec, default: bool) -> Result<()> {
    biases.qkv = settings.flag_or("attention_bias", default)?;
    biases.out = biases.qkv;
    Ok(())
}

const LAYER_TYPES: &str = "layer_types";
const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// The window of each layer, by `layer_types` or else `is_windowed` by its number; empty where no layer has one.
pub(super) fn windows(
    settings: &ConfigReader,
    layers: usize,
    window: Option<usize>,
    is_windowed: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>> {
    let types: Vec<bool> = match settings.value(LAYER_TYPES) {
        Value::Null => (0..layers).map(|layer| window.is_some() && is_windowed(layer)).collect(),
        Value::Array(types) if types.len() == layers && types.iter().all(|t| t == SLIDING || t == FULL) => {
            types.iter().map(|layer_type| layer_type == SLIDING).collect()
        }
        _ => {
            let accepted = format!("\"{FULL}\" or \"{SLIDING}\" for each of the {layers} layers");
            return Err(settings.unsupported(LAYER_TYPES, &accepted));
        }
    };
    match (types.contains(&true), window) {
        (false, _) => Ok(vec![]),
        (true, Some(window)) => Ok(types.into_iter().map(|is_windowed| is_windowed.then_some(window)).collect()),
        (true, None) => Err(settings.unsupported("sliding_window", "a size, where layers have a window")),
    }
}

/// `layer_types` as [`windows`] reads them.
pub(super) fn layer_types(config: &TransformerConfig) -> Value {
    let layer_type = |layer: usize| if config.architecture.window(layer).is_some() { SLIDING } else { FULL };
    json!((0..config.layers).map(layer_type).collect::<Vec<_>>())
}

/// The window of those layers that have one.
pub(super) fn window(config: &TransformerConfig) -> Option<usize> {
    config.architecture.attention.windows.iter().flatten().next().copied()
}
