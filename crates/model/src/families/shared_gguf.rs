//! Settings that most families share in GGUF files, under llama.cpp's names.

use super::shared::{SCALES, SharedSettings, window};
use crate::architecture::{
    Architecture, AttentionSpec, BiasSpec, FusedProjections, LogitSpec, MlpSpec, NormKind, NormPlacement, NormSpec,
    PositionSpec, QueryKeyNorm, ResidualOrder, ResidualSpec,
};
use crate::config::TransformerConfig;
use crate::config_reader::EPSILONS;
use crate::family::HeaderEntries;
use crate::gguf_header::{HeaderValue, MetaValue};
use crate::header_reader::HeaderReader;
use crate::{Error, Result, gguf_rope};
use std::path::Path;

/// Settings of all that have rotary positions, besides those of the positions.
const SIZES: &[&str] = &[
    "context_length",
    "embedding_length",
    "block_count",
    INNER,
    "attention.head_count",
    KEY_VALUE_HEADS,
    KEY_WIDTH,
    VALUE_WIDTH,
    RMS_EPSILON,
    LAYER_EPSILON,
    "vocab_size",
    "expert_count",
    "expert_used_count",
    "leading_dense_block_count",
    "tensor_data_layout",
];
const INNER: &str = "feed_forward_length";
const KEY_VALUE_HEADS: &str = "attention.head_count_kv";
const KEY_WIDTH: &str = "attention.key_length";
const VALUE_WIDTH: &str = "attention.value_length";
const RMS_EPSILON: &str = "attention.layer_norm_rms_epsilon";
const LAYER_EPSILON: &str = "attention.layer_norm_epsilon";
/// Windows, and which layers have one.
const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";
const SCALE: &str = "attention.scale";
const SCORE_CAP: &str = "attn_logit_softcapping";
const LOGIT_CAP: &str = "final_logit_softcapping";
const PARALLEL: &str = "use_parallel_residual";

/// Layers that have a window, where the file does not say which.
#[derive(Debug, Clone, Copy)]
pub(super) enum UsualWindows {
    /// The family's files know no windows.
    Unknown,
    All,
    /// All but each layer of this number.
    AllBut(usize),
}

impl UsualWindows {
    fn has(self, layer: usize) -> bool {
        match self {
            Self::Unknown | Self::All => true,
            Self::AllBut(period) => !(layer + 1).is_multiple_of(period),
        }
    }
}

/// What every family here knows.
pub(super) const KNOWN: &[&[&str]] = &[SIZES, gguf_rope::KNOWN];
/// The same with windows.
pub(super) const KNOWN_WITH_WINDOWS: &[&[&str]] = &[SIZES, gguf_rope::KNOWN, &[WINDOW, PATTERN]];
/// Gemma's.
pub(super) const KNOWN_GEMMA: &[&[&str]] = &[SIZES, gguf_rope::KNOWN, &[WINDOW, PATTERN, SCALE, SCORE_CAP, LOGIT_CAP]];
/// Of blocks that may be parallel.
pub(super) const KNOWN_PARALLEL: &[&[&str]] = &[SIZES, gguf_rope::KNOWN, &[PARALLEL]];
/// Granite's.
pub(super) const KNOWN_MULTIPLIERS: &[&[&str]] =
    &[SIZES, gguf_rope::KNOWN, &["embedding_scale", "residual_scale", "logit_scale", SCALE]];

/// A model with a family's norm and activation, as sizes, positions and tensors say; `windowed_base`: of the rotary positions in
/// layers with a window, where they have another.
///
/// # Errors
/// A size that is missing, a value that is not computed.
pub(super) fn read(
    shared: &SharedSettings,
    settings: &HeaderReader<'_>,
    [width, heads]: [usize; 2],
    windowed_base: Option<f64>,
) -> Result<Architecture> {
    for key in ["expert_count", "expert_used_count", "leading_dense_block_count"] {
        if !matches!(settings.value(key), None | Some(MetaValue::Int(0))) {
            return Err(settings.unsupported(key, "no value: mixtures of experts are not computed"));
        }
    }
    let key_value_heads = settings.size_or(KEY_VALUE_HEADS, heads)?;
    if !heads.is_multiple_of(key_value_heads) {
        return Err(settings.unsupported(KEY_VALUE_HEADS, &format!("a divisor of the heads, {heads}")));
    }
    if settings.value(KEY_WIDTH).is_none() && width % heads != 0 {
        return Err(settings.unsupported("attention.head_count", &format!("a divisor of the width, {width}")));
    }
    let head_width = settings.size_or(KEY_WIDTH, width / heads)?;
    if head_width % 2 != 0 {
        return Err(settings.unsupported(KEY_WIDTH, "an even size"));
    }
    if settings.size_or(VALUE_WIDTH, head_width)? != head_width {
        return Err(settings.unsupported(VALUE_WIDTH, &format!("{head_width}, as the keys have")));
    }
    if let Some([rows, _]) = settings.store.shape("blk.0.attn_q.weight")
        && Some(*rows) != heads.checked_mul(head_width)
    {
        let accepted = format!("heads of width {head_width} that make up the {rows} rows of `blk.0.attn_q.weight`");
        return Err(settings.unsupported("attention.head_count", &accepted));
    }
    let rotary = gguf_rope::read(settings, head_width, settings.size("context_length")?, windowed_base)?;
    let epsilon = if shared.norm == NormKind::Layer { LAYER_EPSILON } else { RMS_EPSILON };
    let has = |name: &str| settings.store.shape(name).is_some();
    Ok(Architecture {
        family: shared.model_type,
        norm: NormSpec {
            kind: shared.norm,
            epsilon: settings.number(epsilon, &EPSILONS)?,
            placement: NormPlacement::Before,
            queries_and_keys: QueryKeyNorm::None,
        },
        biases: BiasSpec {
            qkv: has("blk.0.attn_q.bias") || has("blk.0.attn_qkv.bias"),
            out: has("blk.0.attn_output.bias"),
            mlp: has("blk.0.ffn_up.bias"),
            head: has("output.bias"),
        },
        positions: PositionSpec::Rotary(rotary),
        attention: AttentionSpec {
            key_value_heads: Some(key_value_heads),
            head_width: Some(head_width),
            ..AttentionSpec::default()
        },
        mlp: MlpSpec { inner: settings.size(INNER)?, gated: shared.gated, activation: shared.default_activation },
        residual: ResidualSpec { order: ResidualOrder::Serial, multiplier: 1.0 },
        embedding_multiplier: 1.0,
        logits: LogitSpec::PLAIN,
        fused: FusedProjections::default(),
    })
}

/// The window of each layer.
pub(super) fn read_windows(settings: &HeaderReader<'_>, usual: UsualWindows) -> Result<Vec<Option<usize>>> {
    let layers = settings.size("block_count")?;
    if matches!(settings.value(WINDOW), None | Some(MetaValue::Int(0))) {
        return Ok(vec![]);
    }
    let window = settings.size(WINDOW)?;
    let layers_with = |windows: UsualWindows| (0..layers).map(|layer| windows.has(layer)).collect();
    let is_windowed: Vec<bool> = match settings.value(PATTERN) {
        Some(MetaValue::Array { .. }) => {
            let flags = settings.header.as_flags(&settings.key(PATTERN), settings.bytes);
            flags.filter(|flags| flags.len() == layers).ok_or_else(|| {
                settings.unsupported(PATTERN, &format!("true or false for each of the {layers} layers, or a period"))
            })?
        }
        Some(_) => layers_with(UsualWindows::AllBut(settings.size(PATTERN)?)),
        None => layers_with(usual),
    };
    Ok(is_windowed.into_iter().map(|is_windowed| is_windowed.then_some(window)).collect())
}

/// Soft caps and the factor of scores, which are `usual` where the file does not say.
pub(super) fn read_caps(
    settings: &HeaderReader<'_>,
    architecture: &mut Architecture,
    caps: [Option<f64>; 2],
    usual: f64,
) -> Result<()> {
    let number = |key: &str| settings.value(key).map(|_| settings.number(key, &SCALES)).transpose();
    architecture.attention.soft_cap = number(SCORE_CAP)?.or(caps[0]);
    architecture.logits.soft_cap = number(LOGIT_CAP)?.or(caps[1]);
    architecture.attention.scale = Some(number(SCALE)?.unwrap_or(usual));
    Ok(())
}

/// Granite's multipliers.
pub(super) fn read_multipliers(settings: &HeaderReader<'_>, architecture: &mut Architecture) -> Result<()> {
    architecture.embedding_multiplier = settings.number_or("embedding_scale", &SCALES, 1.0)?;
    architecture.residual.multiplier = settings.number_or("residual_scale", &SCALES, 1.0)?;
    architecture.logits.multiplier = 1.0 / settings.number_or("logit_scale", &SCALES, 1.0)?;
    if settings.value(SCALE).is_some() {
        architecture.attention.scale = Some(settings.number(SCALE, &SCALES)?);
    }
    Ok(())
}

/// Whether attention and MLP stand side by side.
pub(super) fn read_parallel(settings: &HeaderReader<'_>, usual: bool) -> Result<bool> {
    Ok(settings.flag(PARALLEL)?.unwrap_or(usual))
}

/// The settings that [`read`] reads, with windows and caps where there are any.
///
/// # Errors
/// What the family's files have no name for.
pub(super) fn write(
    shared: &SharedSettings,
    config: &TransformerConfig,
    usual_windows: UsualWindows,
    path: &Path,
) -> Result<HeaderEntries> {
    let architecture = &config.architecture;
    let unsupported = |key: &str, value: String, accepted: String| {
        Err(Error::Unsupported { path: path.into(), key: key.into(), found: value, accepted })
    };
    if architecture.mlp.activation != shared.default_activation {
        let (activation, accepted) = (architecture.mlp.activation, shared.default_activation);
        return unsupported(
            "activation",
            format!("{activation:?}"),
            format!("{accepted:?}: GGUF has no name for another"),
        );
    }
    let head_width = config.head_width();
    let epsilon = if shared.norm == NormKind::Layer { LAYER_EPSILON } else { RMS_EPSILON };
    let mut entries = vec![
        (INNER, HeaderValue::Size(config.inner())),
        (KEY_VALUE_HEADS, HeaderValue::Size(config.key_value_heads())),
        (epsilon, HeaderValue::Real(config.epsilon())),
        (KEY_WIDTH, HeaderValue::Size(head_width)),
        (VALUE_WIDTH, HeaderValue::Size(head_width)),
    ];
    if let Some(rotary) = architecture.rotary() {
        entries.extend(gguf_rope::write(rotary, head_width, path)?.0);
    }
    if let Some(window) = window(config) {
        if let UsualWindows::Unknown = usual_windows {
            return unsupported(
                "sliding_window",
                window.to_string(),
                "none: this family's files have no name for it".into(),
            );
        }
        entries.push((WINDOW, HeaderValue::Size(window)));
        let windowed: Vec<bool> = (0..config.layers).map(|layer| architecture.window(layer).is_some()).collect();
        let is_so = |windows: UsualWindows| windowed.iter().enumerate().all(|(layer, has)| *has == windows.has(layer));
        if !is_so(usual_windows) {
            let period = (1..=config.layers).find(|period| is_so(UsualWindows::AllBut(*period)));
            entries.push((PATTERN, period.map_or_else(|| HeaderValue::Flags(windowed.clone()), HeaderValue::Size)));
        }
    }
    let caps = [(SCORE_CAP, architecture.attention.soft_cap), (LOGIT_CAP, architecture.logits.soft_cap)];
    entries.extend(caps.into_iter().filter_map(|(key, cap)| Some((key, HeaderValue::Real(cap?)))));
    let usual = (head_width as f64).powf(-0.5);
    if let Some(scale) = architecture.attention.scale.filter(|scale| (scale / usual - 1.0).abs() > 1e-6) {
        entries.push((SCALE, HeaderValue::Real(scale)));
    }
    Ok(entries)
}

/// Granite's multipliers.
pub(super) fn write_multipliers(config: &TransformerConfig) -> HeaderEntries {
    let architecture = &config.architecture;
    vec![
        ("embedding_scale", HeaderValue::Real(architecture.embedding_multiplier)),
        ("residual_scale", HeaderValue::Real(architecture.residual.multiplier)),
        ("logit_scale", HeaderValue::Real(1.0 / architecture.logits.multiplier)),
    ]
}

/// Whether attention and MLP stand side by side.
pub(super) fn write_parallel(config: &TransformerConfig) -> HeaderEntries {
    vec![(PARALLEL, HeaderValue::Flag(config.architecture.residual.order != ResidualOrder::Serial))]
}
