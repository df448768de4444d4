//! How a model's weights begin.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use duel_spec::seeds::Rng;
use rand::RngExt;

/// How a model's weights begin.
pub(crate) enum Init<'a> {
    /// Drawn from a generator of the host's.
    Random(&'a mut Rng),
    /// Zeros, to be replaced.
    Zeros,
}

/// Normal draws of mean 0 (Box–Muller), or zeros.
pub(crate) fn normal(shape: [usize; 2], std: f64, start: &mut Init<'_>, device: &Device) -> Param<Tensor<2>> {
    let Init::Random(rng) = start else { return Param::from_tensor(Tensor::zeros(shape, device)) };
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| {
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos() * std) as f32
        })
        .collect();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}
