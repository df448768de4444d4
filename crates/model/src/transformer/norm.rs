//! The norms of a transformer.

use crate::architecture::NormKind;
use crate::config::TransformerConfig;
use crate::fused;
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor};

#[derive(Module, Debug)]
pub enum Norm {
    Layer(LayerNorm),
    Rms(RmsNorm),
}

impl Norm {
    pub fn new(config: &TransformerConfig, device: &Device) -> Self {
        let (width, epsilon) = (config.width, config.epsilon());
        match config.architecture.norm.kind {
            NormKind::Layer => Self::Layer(LayerNormConfig::new(width).with_epsilon(epsilon).init(device)),
            NormKind::Rms => Self::Rms(RmsNormConfig::new(width).with_epsilon(epsilon).init(device)),
            NormKind::RmsOnePlus => unreachable!("refused by `Architecture::check`"),
        }
    }

    /// `epsilon` is the one that it was made with, which burn keeps private.
    pub fn forward(&self, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        match self {
            Self::Layer(LayerNorm { gamma, beta: Some(beta), .. }) if fused::is_supported(&x) => {
                fused::layer_norm(x, gamma.val(), beta.val(), epsilon)
            }
            Self::Layer(norm) => norm.forward(x),
            Self::Rms(norm) => norm.forward(x),
        }
    }
}
