//! Sizes of a transformer, and the family that says how its blocks are made.

use serde::{Deserialize, Serialize};

/// Everything that fixes a model's shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransformerConfig {
    pub vocabulary: usize,
    /// Most tokens of a sequence.
    pub context: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    /// Whether a policy's head shares the token embedding.
    pub tied: bool,
    pub family: Family,
}

/// How the blocks of a transformer are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Family {
    /// Learned positions, layer norm, biases, one projection for queries, keys and values. Radford et al. 2019.
    Gpt2 {
        activation: Activation,
        /// Hidden units of the MLP.
        inner: usize,
        epsilon: f64,
    },
    /// Rotary positions, RMS norm, no biases, grouped queries, gated MLP. Touvron et al. 2023.
    Llama {
        key_value_heads: usize,
        /// Units of one head.
        head_width: usize,
        /// Hidden units of the MLP.
        inner: usize,
        rope_theta: f64,
        epsilon: f64,
    },
}

/// The bend in an ungated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(0, x)²`, So et al. 2021: as good as GELU here at a third less time a step.
    SquaredRelu,
    /// `x/2 (1 + tanh(√(2/π)(x + 0.044715 x³)))`, Hendrycks & Gimpel 2016: GPT-2's.
    GeluTanh,
}

impl TransformerConfig {
    /// Duel's own models: GPT-2 with a squared ReLU.
    pub fn small(vocabulary: usize, context: usize, layers: usize, width: usize, heads: usize, tied: bool) -> Self {
        let family = Family::Gpt2 { activation: Activation::SquaredRelu, inner: 4 * width, epsilon: 1e-5 };
        Self { vocabulary, context, layers, width, heads, tied, family }
    }

    /// Units of one head, `E`.
    pub fn head_width(&self) -> usize {
        match self.family {
            Family::Gpt2 { .. } => self.width / self.heads,
            Family::Llama { head_width, .. } => head_width,
        }
    }

    /// What its norms add to the variance.
    pub fn epsilon(&self) -> f64 {
        let (Family::Gpt2 { epsilon, .. } | Family::Llama { epsilon, .. }) = self.family;
        epsilon
    }

    /// Heads of keys and values.
    pub fn key_value_heads(&self) -> usize {
        match self.family {
            Family::Gpt2 { .. } => self.heads,
            Family::Llama { key_value_heads, .. } => key_value_heads,
        }
    }

    /// Numbers that a model of these sizes is made of; `None` where they are more than can be counted.
    pub fn num_params(&self) -> Option<usize> {
        let (d, e) = (self.width, self.head_width());
        let heads = self.heads.checked_mul(2)?.checked_add(self.key_value_heads().checked_mul(2)?)?;
        let (mlp, inner, positions) = match self.family {
            Family::Gpt2 { inner, .. } => (2, inner, self.context),
            Family::Llama { inner, .. } => (3, inner, 0),
        };
        let attention = d.checked_mul(e)?.checked_mul(heads)?;
        let block = attention.checked_add(d.checked_mul(inner)?.checked_mul(mlp)?)?.checked_add(d.checked_mul(2)?)?;
        let heads = if self.tied { 1 } else { 2 };
        let rows = self.vocabulary.checked_mul(heads)?.checked_add(positions)?;
        self.layers.checked_mul(block)?.checked_add(d.checked_mul(rows)?)
    }

    /// Parameters of a block's matrices.
    pub fn block_matrices(&self) -> usize {
        let (d, e) = (self.width, self.head_width());
        let attention = d * e * (2 * self.heads + 2 * self.key_value_heads());
        attention
            + match self.family {
                Family::Gpt2 { inner, .. } => 2 * d * inner,
                Family::Llama { inner, .. } => 3 * d * inner,
            }
    }
}
