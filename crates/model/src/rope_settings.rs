//! Rotary positions in `config.json`: `rope_parameters` as transformers 5 writes them, or `rope_theta` and `rope_scaling` as
//! those before did.

use crate::Result;
use crate::architecture::{RopeScaling, RotarySpec};
use crate::config_reader::{ConfigReader, SIZES, THETAS, number, range_text};
use serde_json::{Map, Value, json};
use std::ops::RangeInclusive;

/// What a family's rotary positions are where its settings do not say.
#[derive(Debug)]
pub(crate) struct RopeDefaults {
    pub theta: f64,
    pub fraction: f64,
    /// Keys of both beside `rope_theta` and `partial_rotary_factor`.
    pub keys: [&'static str; 2],
    /// Whether a part of a head may be rotated.
    pub is_partial: bool,
    /// Whether layers with a window may have settings of their own.
    pub is_per_layer_type: bool,
}

impl RopeDefaults {
    pub const PLAIN: Self = Self {
        theta: 10_000.0,
        fraction: 1.0,
        keys: ["rope_theta", "partial_rotary_factor"],
        is_partial: false,
        is_per_layer_type: false,
    };
}

/// Factors of contexts and frequencies that are read.
const FACTORS: RangeInclusive<f64> = 1e-3..=1e6;
/// The share of a head that is rotated.
const FRACTIONS: RangeInclusive<f64> = 1e-6..=1.0;

/// Kinds of scaling, and the keys that each is described with besides those of all.
const KINDS: [(&str, &[&str]); 6] = [
    ("default", &["factor"]),
    ("linear", &["factor"]),
    ("dynamic", &["factor"]),
    ("llama3", &["factor", "low_freq_factor", "high_freq_factor"]),
    ("yarn", &["factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"]),
    ("longrope", &["factor", "short_factor", "long_factor", "attention_factor"]),
];
/// Keys of all kinds.
const COMMON: [&str; 5] =
    ["rope_theta", "rope_type", "type", "partial_rotary_factor", "original_max_position_embeddings"];

/// One object of rotary settings, and the file that it is of.
struct RopeReader<'a> {
    settings: &'a ConfigReader,
    /// Key of the object.
    block: &'static str,
    json: &'a Map<String, Value>,
}

/// The rotary positions of a model whose longest sequence is `context`; a head is `head_width` wide.
///
/// # Errors
/// [`crate::Error::Unsupported`]: a kind, a key or a value that is not computed.
pub(crate) fn read(
    settings: &ConfigReader,
    defaults: &RopeDefaults,
    head_width: usize,
    context: usize,
) -> Result<RotarySpec> {
    let empty = Map::new();
    let mut chosen = ("rope_parameters", &empty);
    // where there are both, transformers reads the older one
    for block in ["rope_parameters", "rope_scaling"] {
        match settings.value(block) {
            Value::Null => {}
            Value::Object(map) if map.is_empty() => {}
            // where layers differ by type, the older one says less
            Value::Object(_) if defaults.is_per_layer_type && chosen.1.contains_key(FULL) => {}
            Value::Object(map) => chosen = (block, map),
            _ => return Err(settings.unsupported(block, "no value, or an object")),
        }
    }
    let (block, json) = chosen;
    let of_layers = |layer_type: &str| match &json[layer_type] {
        Value::Object(json) => RopeReader { settings, block, json }.spec(defaults, head_width, context),
        _ => Err(settings.unsupported(block, "an object per type of layers")),
    };
    if !(defaults.is_per_layer_type && json.contains_key(FULL)) {
        return RopeReader { settings, block, json }.spec(defaults, head_width, context);
    }
    let full = of_layers(FULL)?;
    if json.keys().any(|key| key != FULL && key != WINDOWED) {
        return Err(settings.unsupported(block, &format!("{FULL} and {WINDOWED}")));
    }
    if !json.contains_key(WINDOWED) {
        return Ok(full);
    }
    let windowed = of_layers(WINDOWED)?;
    if windowed.scaling != RopeScaling::None || windowed.fraction != full.fraction {
        let accepted = format!("{WINDOWED} with rope_type \"default\", and the share of a head that {FULL} has");
        return Err(settings.unsupported(block, &accepted));
    }
    Ok(RotarySpec { windowed_theta: Some(windowed.theta), ..full })
}

/// Layers by type, where `rope_parameters` is an object of objects.
const FULL: &str = "full_attention";
const WINDOWED: &str = "sliding_attention";

impl RopeReader<'_> {
    fn spec(&self, defaults: &RopeDefaults, head_width: usize, context: usize) -> Result<RotarySpec> {
        let own_or = |key: &'static str, other: &str, range: &RangeInclusive<f64>, default: f64| {
            if let Some(value) = self.value(key) {
                if self.settings.json[other] == *value {
                    self.settings.value(other); // said twice, for older readers
                }
                return number(value, range).ok_or_else(|| self.refused(key, &range_text(range)));
            }
            if self.settings.value(other).is_null() {
                return Ok(default);
            }
            self.settings.number(other, range.clone())
        };
        let theta = own_or("rope_theta", defaults.keys[0], &THETAS, defaults.theta)?;
        let fraction = own_or("partial_rotary_factor", defaults.keys[1], &FRACTIONS, defaults.fraction)?;
        if fraction != 1.0 && !defaults.is_partial {
            return Err(self.refused("partial_rotary_factor", "1: this family rotates whole heads"));
        }
        let plain = RotarySpec { fraction, ..RotarySpec::plain(theta) };
        let rotated = plain.rotated(head_width);
        if rotated == 0 || !rotated.is_multiple_of(2) {
            let accepted = format!("a share that rotates an even number of a head's {head_width} units");
            return Err(self.refused("partial_rotary_factor", &accepted));
        }
        Ok(RotarySpec { scaling: self.scaling(rotated, context)?, ..plain })
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn refused(&self, key: &str, accepted: &str) -> crate::Error {
        let value = self.json.get(key).unwrap_or(&Value::Null);
        self.settings.unsupported_value(&format!("{}.{key}", self.block), value, accepted)
    }

    fn number(&self, key: &str, range: &RangeInclusive<f64>) -> Result<f64> {
        self.value(key).and_then(|value| number(value, range)).ok_or_else(|| self.refused(key, &range_text(range)))
    }

    fn number_or(&self, key: &str, range: &RangeInclusive<f64>, default: f64) -> Result<f64> {
        self.value(key).map_or(Ok(default), |_| self.number(key, range))
    }

    /// The context of pretraining: in the block, beside it, or the model's own.
    fn original_context(&self, context: usize) -> Result<usize> {
        const KEY: &str = "original_max_position_embeddings";
        let size = |value: &Value| value.as_u64().filter(|n| SIZES.contains(n)).and_then(|n| usize::try_from(n).ok());
        match self.value(KEY) {
            Some(value) => size(value).ok_or_else(|| self.refused(KEY, &format!("a size from 1 to {}", SIZES.end()))),
            None => self.settings.size_or(KEY, context),
        }
    }

    /// The name of the kind, which older and newer files have under different keys.
    fn kind(&self) -> Result<&'static (&'static str, &'static [&'static str])> {
        let mut names = ["rope_type", "type"].into_iter().filter_map(|key| Some((key, self.value(key)?)));
        let Some((key, name)) = names.next() else {
            return match self.value("factor") {
                Some(_) => Err(self.refused("rope_type", &kinds())),
                None => Ok(&KINDS[0]),
            };
        };
        let canonical = |name: &Value| match name.as_str() {
            Some("su") => Some("longrope"), // Phi-3's first name for it
            name => name.map(|name| KINDS.iter().find(|(kind, _)| *kind == name).map_or("", |(kind, _)| kind)),
        };
        let canonical_name = canonical(name);
        if let Some((other, value)) = names.next()
            && canonical(value) != canonical_name
        {
            return Err(self.refused(other, &format!("{name}, as `{key}` has it")));
        }
        KINDS.iter().find(|(kind, _)| Some(*kind) == canonical_name).ok_or_else(|| self.refused(key, &kinds()))
    }

    fn scaling(&self, rotated: usize, context: usize) -> Result<RopeScaling> {
        let (kind, keys) = self.kind()?;
        if let Some(key) = self.json.keys().find(|key| !COMMON.contains(&key.as_str()) && !keys.contains(&key.as_str()))
        {
            let accepted = format!("no such key for the kind \"{kind}\": {}", [&COMMON, *keys].concat().join(", "));
            return Err(self.refused(key, &accepted));
        }
        let original_context = || self.original_context(context);
        let factor = || self.number("factor", &FACTORS);
        Ok(match *kind {
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => RopeScaling::Dynamic { factor: factor()? },
            "llama3" => {
                let low_frequency = self.number("low_freq_factor", &FACTORS)?;
                let high_frequency = self.number("high_freq_factor", &FACTORS)?;
                if high_frequency <= low_frequency {
                    return Err(self.refused("high_freq_factor", "more than low_freq_factor"));
                }
                let original_context = original_context()?;
                RopeScaling::Llama3 { factor: factor()?, low_frequency, high_frequency, original_context }
            }
            "yarn" => {
                let original_context = original_context()?;
                let factor = self.number_or("factor", &FACTORS, context as f64 / original_context as f64)?;
                RopeScaling::Yarn {
                    factor,
                    beta_fast: self.number_or("beta_fast", &FACTORS, 32.0)?,
                    beta_slow: self.number_or("beta_slow", &FACTORS, 1.0)?,
                    attention_factor: self.yarn_attention_factor(factor)?,
                    original_context,
                    truncate: self.value("truncate").is_none_or(|value| *value == json!(true)),
                }
            }
            "longrope" => {
                let original_context = original_context()?;
                let ratio = self.number_or("factor", &FACTORS, context as f64 / original_context as f64)?;
                let default = if ratio <= 1.0 || original_context == 1 {
                    1.0
                } else {
                    (1.0 + ratio.ln() / (original_context as f64).ln()).sqrt()
                };
                RopeScaling::LongRope {
                    short_factors: self.factors("short_factor", rotated / 2)?,
                    long_factors: self.factors("long_factor", rotated / 2)?,
                    attention_factor: self.number_or("attention_factor", &FACTORS, default)?,
                    original_context,
                    long_context: context,
                }
            }
            _ => RopeScaling::None,
        })
    }

    /// Peng et al. 2023, eq. 22, or the ratio of two of them, as DeepSeek has it.
    fn yarn_attention_factor(&self, factor: f64) -> Result<f64> {
        let scale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        let mscale = |key: &str| match self.value(key) {
            Some(value) if value.as_f64() == Some(0.0) => Ok(None),
            Some(_) => self.number(key, &FACTORS).map(Some),
            None => Ok(None),
        };
        let default = match (mscale("mscale")?, mscale("mscale_all_dim")?) {
            (Some(m), Some(all)) => scale(m) / scale(all),
            _ => scale(1.0),
        };
        self.number_or("attention_factor", &FACTORS, default)
    }

    fn factors(&self, key: &str, count: usize) -> Result<Vec<f64>> {
        let accepted = || format!("{count} numbers, one per pair of rotated units");
        let list = self.value(key).and_then(Value::as_array).filter(|list| list.len() == count);
        let list = list.ok_or_else(|| self.refused(key, &accepted()))?;
        list.iter().map(|value| number(value, &FACTORS).ok_or_else(|| self.refused(key, &accepted()))).collect()
    }
}

fn kinds() -> String {
    KINDS.map(|(kind, _)| format!("\"{kind}\"")).join(", ")
}

/// `rope_parameters`; null for scalings that `config.json` has no words for.
pub(crate) fn write(spec: &RotarySpec) -> Value {
    match spec.windowed_theta {
        None => write_unwindowed(spec),
        Some(theta) => json!({
            FULL: write_unwindowed(spec),
            WINDOWED: write_unwindowed(&RotarySpec { fraction: spec.fraction, ..RotarySpec::plain(theta) }),
        }),
    }
}

/// The same of the layers without a window alone.
pub(crate) fn write_unwindowed(spec: &RotarySpec) -> Value {
    let mut block = match &spec.scaling {
        RopeScaling::None => json!({ "rope_type": "default" }),
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Dynamic { factor } => json!({ "rope_type": "dynamic", "factor": factor }),
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_frequency,
            "high_freq_factor": high_frequency,
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_context, truncate } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "attention_factor": attention_factor,
            "original_max_position_embeddings": original_context,
            "truncate": truncate,
        }),
        RopeScaling::LongRope { short_factors, long_factors, attention_factor, original_context, long_context: _ } => {
            json!({
                "rope_type": "longrope",
                "short_factor": short_factors,
                "long_factor": long_factors,
                "attention_factor": attention_factor,
                "original_max_position_embeddings": original_context,
            })
        }
        RopeScaling::Factors(_) => return Value::Null,
    };
    block["rope_theta"] = json!(spec.theta);
    if spec.fraction != 1.0 {
        block["partial_rotary_factor"] = json!(spec.fraction);
    }
    block
}
