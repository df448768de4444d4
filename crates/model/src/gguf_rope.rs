//! Rotary positions in GGUF files: base and scaling in settings, factors of single frequencies in tensors.

use crate::architecture::{RopeScaling, RotarySpec};
use crate::config_reader::THETAS;
use crate::family::HeaderEntries;
use crate::gguf_header::HeaderValue;
use crate::header_reader::HeaderReader;
use crate::{Error, Result};
use std::f64::consts::TAU;
use std::ops::RangeInclusive;
use std::path::Path;

/// Factors of the frequencies, and LongRoPE's of short and long contexts.
pub(crate) const FREQUENCIES: &str = "rope_freqs.weight";
const SHORT: &str = "rope_factors_short.weight";
const LONG: &str = "rope_factors_long.weight";

/// Settings whose meaning is known.
pub(crate) const KNOWN: &[&str] = &[
    BASE,
    WINDOWED_BASE,
    ROTATED,
    KIND,
    FACTOR,
    OLD_FACTOR,
    ATTENTION_FACTOR,
    ORIGINAL,
    YARN_EXT,
    YARN_ATTENTION,
    BETA_FAST,
    BETA_SLOW,
    "rope.scaling.finetuned",
];
const BASE: &str = "rope.freq_base";
const WINDOWED_BASE: &str = "rope.freq_base_swa";
const ROTATED: &str = "rope.dimension_count";
const KIND: &str = "rope.scaling.type";
const FACTOR: &str = "rope.scaling.factor";
const OLD_FACTOR: &str = "rope.scale_linear";
const ATTENTION_FACTOR: &str = "rope.scaling.attn_factor";
const ORIGINAL: &str = "rope.scaling.original_context_length";
const YARN_EXT: &str = "rope.scaling.yarn_ext_factor";
const YARN_ATTENTION: &str = "rope.scaling.yarn_attn_factor";
const BETA_FAST: &str = "rope.scaling.yarn_beta_fast";
const BETA_SLOW: &str = "rope.scaling.yarn_beta_slow";

/// Factors that are read.
const FACTORS: RangeInclusive<f64> = 1e-3..=1e6;
/// Llama 3.1's: the file holds only what follows from them.
const LLAMA3_FREQUENCIES: [f64; 2] = [1.0, 4.0];
const LLAMA3_CONTEXT: usize = 8192;

/// Whether a tensor is one of factors, and no parameter.
pub(crate) fn is_factors(name: &str) -> bool {
    [FREQUENCIES, SHORT, LONG].contains(&name)
}

/// The rotary positions of heads of `head_width`, for a model of `context`; `windowed_base`: of layers with a window, where the file
/// does not say and they have another.
///
/// # Errors
/// [`Error::Unsupported`]: a kind or a value that is not computed. [`Error::Shape`]: factors of another number.
pub(crate) fn read(
    settings: &HeaderReader<'_>,
    head_width: usize,
    context: usize,
    windowed_base: Option<f64>,
) -> Result<RotarySpec> {
    let theta = settings.number_or(BASE, &THETAS, 10_000.0)?;
    let rotated = settings.size_or(ROTATED, head_width)?;
    if rotated % 2 != 0 || rotated > head_width {
        let accepted = format!("an even size of at most {head_width}, a head's width");
        return Err(settings.unsupported(ROTATED, &accepted));
    }
    let windowed_theta = match settings.value(WINDOWED_BASE) {
        Some(_) => Some(settings.number(WINDOWED_BASE, &THETAS)?),
        None => windowed_base,
    };
    let scaling = scaling(settings, theta, rotated, context)?;
    let mut spec = RotarySpec { scaling, windowed_theta, ..RotarySpec::plain(theta) };
    spec.fraction = rotated as f64 / head_width as f64;
    if spec.rotated(head_width) != rotated {
        spec.fraction = spec.fraction.next_up(); // which was rounded down
    }
    Ok(spec)
}

fn scaling(settings: &HeaderReader<'_>, theta: f64, rotated: usize, context: usize) -> Result<RopeScaling> {
    let original = || settings.size_or(ORIGINAL, context);
    let attention_factor = || settings.number_or(ATTENTION_FACTOR, &FACTORS, 1.0);
    if let Some(short_factors) = factors(settings, SHORT, rotated)? {
        let long_factors = factors(settings, LONG, rotated)?.ok_or_else(|| Error::Lacking { name: LONG.into() })?;
        let (attention_factor, original_context) = (attention_factor()?, original()?);
        return Ok(RopeScaling::LongRope {
            short_factors,
            long_factors,
            attention_factor,
            original_context,
            long_context: context,
        });
    }
    if let Some(factors) = factors(settings, FREQUENCIES, rotated)?
        && factors.iter().any(|factor| *factor != 1.0)
    {
        let original_context = settings.size_or(ORIGINAL, LLAMA3_CONTEXT)?;
        return Ok(as_llama3(theta, &factors, original_context).unwrap_or(RopeScaling::Factors(factors)));
    }
    // 0 is another way to say that there is none
    let is_scaled =
        |key: &&str| settings.value(key).is_some() && settings.header.as_float(&settings.key(key)) != Some(0.0);
    let factor = match [FACTOR, OLD_FACTOR].into_iter().find(|key| is_scaled(key)) {
        Some(key) => settings.number(key, &FACTORS)?,
        None => 1.0,
    };
    let kind = match settings.text(KIND) {
        None if settings.value(KIND).is_some() => "",
        kind => kind.unwrap_or("linear"),
    };
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" if attention_factor()? != 1.0 => {
            Err(settings.unsupported(ATTENTION_FACTOR, "1 without a kind of scaling"))
        }
        "linear" if factor == 1.0 => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor }),
        "yarn" => {
            if settings.value(YARN_EXT).is_some() && settings.number(YARN_EXT, &(-1.0..=1.0))?.abs() != 1.0 {
                return Err(settings.unsupported(YARN_EXT, "1"));
            }
            let attention_factor = attention_factor()? * settings.number_or(YARN_ATTENTION, &FACTORS, 1.0)?;
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: settings.number_or(BETA_FAST, &FACTORS, 32.0)?,
                beta_slow: settings.number_or(BETA_SLOW, &FACTORS, 1.0)?,
                attention_factor: attention_factor * yarn_attention(factor),
                original_context: original()?,
                truncate: true,
            })
        }
        "longrope" => Err(Error::Lacking { name: SHORT.into() }),
        _ => Err(settings.unsupported(KIND, "none, linear, yarn, longrope")),
    }
}

/// A tensor of factors, one per pair of rotated units.
fn factors(settings: &HeaderReader<'_>, name: &str, rotated: usize) -> Result<Option<Vec<f64>>> {
    let Some(tensor) = settings.store.get(name)? else { return Ok(None) };
    let expected = vec![rotated / 2];
    if tensor.shape != expected {
        return Err(Error::Shape { name: name.into(), found: tensor.shape, expected });
    }
    let decimal = |x: f32| format!("{x:e}").parse().unwrap_or_else(|_| f64::from(x));
    let values: Vec<f64> = tensor.values.into_iter().map(decimal).collect();
    if let Some(wrong) = values.iter().find(|factor| !FACTORS.contains(factor)) {
        let (key, accepted) = (name.into(), "factors from 0.001 to 1e6".into());
        return Err(Error::Unsupported { path: settings.path.into(), key, found: format!("{wrong}"), accepted });
    }
    Ok(Some(values))
}

/// Peng et al. 2023, eq. 22.
fn yarn_attention(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

/// What the frequencies of Llama 3 are divided by. Grattafiori et al. 2024.
fn llama3_factors(
    theta: f64,
    rotated: usize,
    factor: f64,
    [low, high]: [f64; 2],
    original_context: usize,
) -> impl Iterator<Item = f64> {
    (0..rotated / 2).map(move |i| {
        let turns = original_context as f64 * theta.powf(-2.0 * i as f64 / rotated as f64) / TAU;
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    })
}

/// The settings of Llama 3.1 and later from which factors follow, where they do.
fn as_llama3(theta: f64, factors: &[f64], original_context: usize) -> Option<RopeScaling> {
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let [low_frequency, high_frequency] = LLAMA3_FREQUENCIES;
    let mut expected =
        llama3_factors(theta, 2 * factors.len(), factor, LLAMA3_FREQUENCIES, original_context).zip(factors);
    let is_same = expected.all(|(expected, actual)| (actual / expected - 1.0).abs() < 1e-5);
    is_same.then_some(RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context })
}

/// Factors of the frequencies, each list with its tensor's name.
type NamedFactors = Vec<(&'static str, Vec<f64>)>;

/// Settings and tensors that say what rotary positions are.
///
/// # Errors
/// [`Error::Unsupported`] for what GGUF has no name for.
pub(crate) fn write(rotary: &RotarySpec, head_width: usize, path: &Path) -> Result<(HeaderEntries, NamedFactors)> {
    let rotated = rotary.rotated(head_width);
    let mut entries = vec![(BASE, HeaderValue::Real(rotary.theta)), (ROTATED, HeaderValue::Size(rotated))];
    entries.extend(rotary.windowed_theta.map(|theta| (WINDOWED_BASE, HeaderValue::Real(theta))));
    let mut tensors = vec![];
    match &rotary.scaling {
        // within the context nothing is scaled
        RopeScaling::None | RopeScaling::Dynamic { .. } => {}
        RopeScaling::Linear { factor } => {
            entries.extend([(KIND, HeaderValue::Text("linear")), (FACTOR, HeaderValue::Real(*factor))]);
        }
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
            let frequencies = [*low_frequency, *high_frequency];
            tensors.push((
                FREQUENCIES,
                llama3_factors(rotary.theta, rotated, *factor, frequencies, *original_context).collect(),
            ));
            entries.push((ORIGINAL, HeaderValue::Size(*original_context)));
        }
        RopeScaling::Factors(factors) => tensors.push((FREQUENCIES, factors.clone())),
        RopeScaling::Yarn { truncate: false, .. } => {
            let (key, value) = ("rope_parameters.truncate".into(), "false".into());
            return Err(Error::Unsupported {
                path: path.into(),
                key,
                found: value,
                accepted: "true in GGUF files".into(),
            });
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_context, truncate: true } => {
            entries.extend([
                (KIND, HeaderValue::Text("yarn")),
                (FACTOR, HeaderValue::Real(*factor)),
                (ORIGINAL, HeaderValue::Size(*original_context)),
                (BETA_FAST, HeaderValue::Real(*beta_fast)),
                (BETA_SLOW, HeaderValue::Real(*beta_slow)),
                (ATTENTION_FACTOR, HeaderValue::Real(attention_factor / yarn_attention(*factor))),
            ]);
        }
        RopeScaling::LongRope { short_factors, long_factors, attention_factor, original_context, long_context: _ } => {
            entries.extend([
                (KIND, HeaderValue::Text("longrope")),
                (ORIGINAL, HeaderValue::Size(*original_context)),
                (ATTENTION_FACTOR, HeaderValue::Real(*attention_factor)),
            ]);
            tensors.extend([(SHORT, short_factors.clone()), (LONG, long_factors.clone())]);
        }
    }
    Ok((entries, tensors))
}
