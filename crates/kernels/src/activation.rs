//! Activation functions of MLPs.

/// The activation function of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(0, x)²`, So et al. 2021: as good as GELU in Duel's own models, at a third less time per step.
    SquaredRelu,
    /// `x/2 (1 + tanh(√(2/π)(x + 0.044715 x³)))`, Hendrycks & Gimpel 2016: GPT-2's.
    GeluTanh,
    /// `x·σ(x)`, Hendrycks & Gimpel 2016: that of Llama's gated MLP.
    Silu,
    /// `x·Φ(x)`, Hendrycks & Gimpel 2016, eq. 1: GPT-NeoX's.
    Gelu,
    /// `max(0, x)`: OPT's.
    Relu,
}
