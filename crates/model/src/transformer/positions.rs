//! Learned and rotary positions.

use crate::architecture::PositionSpec;
use crate::config::TransformerConfig;
use crate::init::{Init, normal};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// How a model knows the position of a token.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one per model")]
pub enum Positions {
    Learned(LearnedPositions),
    Rotary(Rotary),
}

#[derive(Module, Debug)]
pub struct LearnedPositions {
    /// `[context, D]`
    pub weight: Param<Tensor<2>>,
}

impl Positions {
    /// `std` is the spread of a table's weights.
    pub fn new(config: &TransformerConfig, std: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        match &config.architecture.positions {
            PositionSpec::Learned { .. } => {
                let weight = normal([config.context, config.width], std, rng, device);
                Self::Learned(LearnedPositions { weight })
            }
            PositionSpec::Rotary(rotary) => {
                Self::Rotary(Rotary::new(config.context, config.head_width(), rotary.theta, device))
            }
        }
    }
}

/// Tables of `cos` and `sin` of position over wavelength, `[context, E/2]`.
#[derive(Module, Debug)]
pub struct Rotary {
    pub cos: Tensor<2>,
    pub sin: Tensor<2>,
}

impl Rotary {
    pub fn new(context: usize, head_width: usize, theta: f64, device: &Device) -> Self {
        let half = head_width / 2;
        let angle = |position: usize, i: usize| position as f64 * theta.powf(-2.0 * i as f64 / head_width as f64);
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..context).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32)).collect();
            Tensor::from_data(TensorData::new(values, [context, half]), device)
        };
        Self { cos: table(f64::cos), sin: table(f64::sin) }
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
