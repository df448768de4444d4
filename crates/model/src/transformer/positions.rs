//! Learned and rotary positions.

use crate::architecture::{PositionSpec, RopeScaling, RotarySpec};
use crate::config::TransformerConfig;
use crate::init::{Init, normal};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::f64::consts::TAU;

/// How a model knows the position of a token.
#[derive(Module, Debug)]
pub enum Positions {
    Learned(LearnedPositions),
    Rotary(Rotary),
}

#[derive(Module, Debug)]
pub struct LearnedPositions {
    /// `[offset + context, D]`
    pub weight: Param<Tensor<2>>,
    /// The row of position 0.
    #[module(skip)]
    pub offset: usize,
}

impl Positions {
    /// `std` is the spread of a table's weights.
    pub fn new(config: &TransformerConfig, std: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        match &config.architecture.positions {
            PositionSpec::Learned { offset } => {
                let weight = normal([offset + config.context, config.width], std, rng, device);
                Self::Learned(LearnedPositions { weight, offset: *offset })
            }
            PositionSpec::Rotary(spec) => Self::Rotary(Rotary::new(config, spec, device)),
        }
    }
}

/// The rotations of all layers.
#[derive(Module, Debug)]
pub struct Rotary {
    /// Those of most layers, and where layers with a window have others, theirs.
    pub tables: Vec<RotaryTable>,
    /// Each layer's index into `tables`; `None`: a layer without positions.
    #[module(skip)]
    pub layers: Vec<Option<usize>>,
}

/// `cos` and `sin` of position times frequency, `[context, R/2]` for R rotated units of a head.
#[derive(Module, Debug)]
pub struct RotaryTable {
    pub cos: Tensor<2>,
    pub sin: Tensor<2>,
}

impl Rotary {
    fn new(config: &TransformerConfig, spec: &RotarySpec, device: &Device) -> Self {
        let rotated = spec.rotated(config.head_width());
        let table = |theta: f64, scaling: &RopeScaling| {
            let (frequencies, factor) = frequencies(theta, rotated, scaling);
            RotaryTable::new(config.context, &frequencies, factor, device)
        };
        let windowed = spec.windowed_theta.map(|theta| table(theta, &RopeScaling::None));
        let tables = [table(spec.theta, &spec.scaling)].into_iter().chain(windowed).collect();
        let layer = |layer: usize| {
            let has_own = spec.windowed_theta.is_some() && config.architecture.window(layer).is_some();
            (!spec.skipped_layers.contains(&layer)).then_some(usize::from(has_own))
        };
        Self { tables, layers: (0..config.layers).map(layer).collect() }
    }
}

impl RotaryTable {
    fn new(context: usize, frequencies: &[f64], factor: f64, device: &Device) -> Self {
        let table = |f: fn(f64) -> f64| {
            let row = |position: usize| frequencies.iter().map(move |w| (factor * f(position as f64 * w)) as f32);
            let values: Vec<f32> = (0..context).flat_map(row).collect();
            Tensor::from_data(TensorData::new(values, [context, frequencies.len()]), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
    }
}

/// Angles per position of each of the `rotated / 2` pairs of units, and the factor of `cos` and `sin`.
fn frequencies(theta: f64, rotated: usize, scaling: &RopeScaling) -> (Vec<f64>, f64) {
    let plain = (0..rotated / 2).map(|i| theta.powf(-2.0 * i as f64 / rotated as f64));
    let divided = |factors: &[f64]| plain.clone().zip(factors).map(|(w, factor)| w / factor).collect();
    match scaling {
        RopeScaling::None | RopeScaling::Dynamic { .. } => (plain.collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|w| w / factor).collect(), 1.0),
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => {
            let scaled = |w: f64| {
                let turns = *original_context as f64 * w / TAU; // within the original context
                let smooth = ((turns - low_frequency) / (high_frequency - low_frequency)).clamp(0.0, 1.0);
                (1.0 - smooth) * w / factor + smooth * w
            };
            (plain.map(scaled).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_context, truncate } => {
            // the pair that turns so often within the original context
            let pair =
                |turns: f64| rotated as f64 * (*original_context as f64 / (turns * TAU)).ln() / (2.0 * theta.ln());
            let (mut low, mut high) = (pair(*beta_fast), pair(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            let scaled = |(i, w): (usize, f64)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                w / factor * ramp + w * (1.0 - ramp)
            };
            (plain.enumerate().map(scaled).collect(), *attention_factor)
        }
        RopeScaling::LongRope { short_factors, attention_factor, .. } => (divided(short_factors), *attention_factor),
        RopeScaling::Factors(factors) => (divided(factors), 1.0),
    }
}

/// Rows of a table by position, `[B or 1, L, ·]`: a column's position does not count the padding before it.
pub fn at_positions(table: &Tensor<2>, start: usize, l: usize, padding: Option<&[usize]>) -> Tensor<3> {
    let Some(padding) = padding else { return table.clone().narrow(0, start, l).unsqueeze::<3>() };
    let positions: Vec<i32> =
        padding.iter().flat_map(|&n| (start..start + l).map(move |column| column.saturating_sub(n) as i32)).collect();
    let count = positions.len();
    let index = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), &table.device());
    let units = table.dims()[1];
    table.clone().select(0, index).reshape([padding.len(), l, units])
}
