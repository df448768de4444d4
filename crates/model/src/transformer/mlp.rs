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
    Gelu(PlainMlp),
    Relu(PlainMlp),
    Silu(PlainMlp),
    Gated(GatedMlp),
    JointGated(JointGatedMlp),
}

/// `down(activation(up(x)))`
#[derive(Module, Debug)]
pub struct PlainMlp {
    pub up: Projection,
    pub down: Projection,
}

/// `down(activation(gate(x)) · up(x))`
#[derive(Module, Debug)]
pub struct GatedMlp {
    pub gate: Projection,
    pub up: Projection,
    pub down: Projection,
    #[module(skip)]
    pub activation: Activation,
}

/// The same with gate and up side by side in one projection.
#[derive(Module, Debug)]
pub struct JointGatedMlp {
    pub gate_up: Projection,
    pub down: Projection,
    #[module(skip)]
    pub activation: Activation,
}

impl Mlp {
    pub fn new(config: &TransformerConfig, std: f64, residual: f64, rng: &mut Init<'_>, device: &Device) -> Self {
        let (d, inner, bias) = (config.width, config.inner(), config.architecture.biases.mlp);
        let MlpSpec { gated, activation, .. } = config.architecture.mlp;
        if gated && config.architecture.fused.gate_up {
            let gate_up = Projection::new(d, 2 * inner, bias, std, rng, device);
            let down = Projection::new(inner, d, bias, residual, rng, device);
            return Self::JointGated(JointGatedMlp { gate_up, down, activation });
        }
        if gated {
            return Self::Gated(GatedMlp {
                gate: Projection::new(d, inner, bias, std, rng, device),
                up: Projection::new(d, inner, bias, std, rng, device),
                down: Projection::new(inner, d, bias, residual, rng, device),
                activation,
            });
        }
        let up = Projection::new(d, inner, bias, std, rng, device);
        let plain = PlainMlp { up, down: Projection::new(inner, d, bias, residual, rng, device) };
        match activation {
            Activation::SquaredRelu => Self::SquaredRelu(plain),
            Activation::GeluTanh => Self::GeluTanh(plain),
            Activation::Gelu => Self::Gelu(plain),
            Activation::Relu => Self::Relu(plain),
            Activation::Silu => Self::Silu(plain),
        }
    }

    pub fn activation(&self) -> Activation {
        match self {
            Self::SquaredRelu(_) => Activation::SquaredRelu,
            Self::GeluTanh(_) => Activation::GeluTanh,
            Self::Gelu(_) => Activation::Gelu,
            Self::Relu(_) => Activation::Relu,
            Self::Silu(_) => Activation::Silu,
            Self::Gated(m) => m.activation,
            Self::JointGated(m) => m.activation,
        }
    }

    /// Hidden units, `F`.
    pub fn inner(&self) -> usize {
        match self {
            Self::SquaredRelu(m) | Self::GeluTanh(m) | Self::Gelu(m) | Self::Relu(m) | Self::Silu(m) => {
                m.down.dims()[0]
            }
            Self::Gated(m) => m.down.dims()[0],
            Self::JointGated(m) => m.down.dims()[0],
        }
    }

    /// `[B, L, D]` to `[B, L, D]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let activation = self.activation();
        match self {
            Self::SquaredRelu(m) | Self::GeluTanh(m) | Self::Gelu(m) | Self::Relu(m) | Self::Silu(m) => {
                m.down.forward(activate(activation, m.up.forward(x)))
            }
            Self::Gated(m) => m.down.forward(activate(activation, m.gate.forward(x.clone())) * m.up.forward(x)),
            Self::JointGated(m) => {
                let inner = m.down.dims()[0];
                let gate_up = m.gate_up.forward(x); // [B, L, 2F]
                let (gate, up) = (gate_up.clone().narrow(2, 0, inner), gate_up.narrow(2, inner, inner));
                m.down.forward(activate(activation, gate) * up)
            }
        }
    }

    /// All projections, by the names that follow `blocks.N`.
    pub fn projections(&self) -> Vec<(&'static str, &Projection)> {
        match self {
            Self::SquaredRelu(m) | Self::GeluTanh(m) | Self::Gelu(m) | Self::Relu(m) | Self::Silu(m) => {
                vec![("mlp.up", &m.up), ("mlp.down", &m.down)]
            }
            Self::Gated(m) => vec![("mlp.gate", &m.gate), ("mlp.up", &m.up), ("mlp.down", &m.down)],
            Self::JointGated(m) => vec![("mlp.gate_up", &m.gate_up), ("mlp.down", &m.down)],
        }
    }

    /// The same to be replaced, in the same order.
    pub fn projections_mut(&mut self) -> Vec<&mut Projection> {
        match self {
            Self::SquaredRelu(m) | Self::GeluTanh(m) | Self::Gelu(m) | Self::Relu(m) | Self::Silu(m) => {
                vec![&mut m.up, &mut m.down]
            }
            Self::Gated(m) => vec![&mut m.gate, &mut m.up, &mut m.down],
            Self::JointGated(m) => vec![&mut m.gate_up, &mut m.down],
        }
    }
}

fn activate(function: Activation, x: Tensor<3>) -> Tensor<3> {
    match function {
        Activation::SquaredRelu => activation::relu(x).square(),
        Activation::GeluTanh => activation::gelu_approximate(x),
        Activation::Gelu => activation::gelu(x),
        Activation::Relu => activation::relu(x),
        Activation::Silu => activation::silu(x),
    }
}
