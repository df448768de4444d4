//! The norms of a transformer.

use crate::architecture::NormKind;
use crate::fused;
use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor};

#[derive(Module, Debug)]
pub enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
    RmsOnePlus(RmsNormOnePlus),
}

/// `x / rms(x) · (1 + w)`
#[derive(Module, Debug)]
pub struct RmsNormOnePlus {
    /// `w`, `[D]`
    pub gamma: Param<Tensor<1>>,
}

impl Norm {
    pub fn new(kind: NormKind, width: usize, epsilon: f64, device: &Device) -> Self {
        match kind {
            NormKind::Layer => Self::Layer(LayerNormConfig::new(width).with_epsilon(epsilon).init(device)),
            NormKind::Rms => Self::Rms(RmsNormConfig::new(width).with_epsilon(epsilon).init(device)),
            NormKind::RmsOnePlus => {
                let gamma = Param::from_tensor(Tensor::zeros([width], device));
                Self::RmsOnePlus(RmsNormOnePlus { gamma })
            }
        }
    }

    /// Of the last dimension. `epsilon` is the one that it was made with, which burn keeps private.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, epsilon: f64) -> Tensor<D> {
        match self {
            Self::Layer(LayerNorm { gamma, beta: Some(beta), .. }) if fused::is_supported(&x) => {
                fused::norm(x, gamma.val(), beta.val(), epsilon)
            }
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
            Self::RmsOnePlus(norm) => {
                let rms = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
                x / rms * (norm.gamma.val() + 1.0).unsqueeze()
            }
        }
    }
}
