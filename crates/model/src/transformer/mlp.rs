//! MLPs, plain and gated.

use crate::architecture::{Activation, MlpSpec};
use crate::config::TransformerConfig;
use crate::init::Init;
use crate::projection::Projection;
use burn::module::Module;
use burn::tensor::{Device, Tensor, activation};

#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one per block")]
pub enum Mlp {
    SquaredRelu(PlainMlp),
    GeluTanh(PlainMlp),
    Gated(GatedMlp),
}

#[derive(Module, Debug)]
pub struct PlainMlp {
    pub up: Projection,
    pub down: Projection,
}

#[derive(Module, Debug)]
pub struct GatedMlp {
    pub gate: Projection,
    pub up: Projection,
    pub down: Projection,
}

impl Mlp {
    pub fn new(config: &TransformerConfig, std: f64, residual: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        let (d, inner, bias) = (config.width, config.inner(), config.architecture.biases.mlp);
        let MlpSpec { gated, activation, .. } = config.architecture.mlp;
        if gated {
            return Self::Gated(GatedMlp {
                gate: Projection::new(d, inner, bias, std, rng, device),
                up: Projection::new(d, inner, bias, std, rng, device),
                down: Projection::new(inner, d, bias, residual, rng, device),
            });
        }
        let up = Projection::new(d, inner, bias, std, rng, device);
        let plain = PlainMlp { up, down: Projection::new(inner, d, bias, residual, rng, device) };
        match activation {
            Activation::SquaredRelu => Self::SquaredRelu(plain),
            Activation::GeluTanh => Self::GeluTanh(plain),
            Activation::Silu => unreachable!("refused by `Architecture::check`"),
        }
    }

    /// The activation function, where the MLP is not gated.
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Self::SquaredRelu(_) => Some(Activation::SquaredRelu),
            Self::GeluTanh(_) => Some(Activation::GeluTanh),
            Self::Gated(_) => None,
        }
    }

    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::SquaredRelu(m) => m.down.forward(activation::relu(m.up.forward(x)).square()),
            Self::GeluTanh(m) => m.down.forward(activation::gelu_approximate(m.up.forward(x))),
            Self::Gated(m) => m.down.forward(activation::silu(m.gate.forward(x.clone())) * m.up.forward(x)),
        }
    }
}
