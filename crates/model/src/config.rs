//! Sizes of a transformer, and how its blocks are made.

use crate::architecture::{Architecture, NormPlacement, PositionSpec, ResidualOrder};

/// Everything that fixes a model's shape and what it computes.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerConfig {
    pub vocabulary: usize,
    /// Most tokens of a sequence.
    pub context: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    /// Whether a policy's head shares the token embedding.
    pub tied: bool,
    pub architecture: Architecture,
}

impl TransformerConfig {
    /// Units of one head, `E`.
    pub fn head_width(&self) -> usize {
        self.architecture.attention.head_width.unwrap_or(self.width / self.heads)
    }

    /// What its norms add to the variance.
    pub fn epsilon(&self) -> f64 {
        self.architecture.norm.epsilon
    }

    /// Heads of keys and values, `G`.
    pub fn key_value_heads(&self) -> usize {
        self.architecture.attention.key_value_heads.unwrap_or(self.heads)
    }

    /// Hidden units of the MLP, `F`.
    pub fn inner(&self) -> usize {
        self.architecture.mlp.inner
    }

    /// Matrices of an MLP.
    fn mlp_matrices(&self) -> usize {
        if self.architecture.mlp.gated { 3 } else { 2 }
    }

    /// Numbers that a model of these sizes is made of, biases left out; `None` where they are more than can be counted.
    pub fn num_params(&self) -> Option<usize> {
        let (d, e) = (self.width, self.head_width());
        let heads = self.heads.checked_mul(2)?.checked_add(self.key_value_heads().checked_mul(2)?)?;
        let positions = match self.architecture.positions {
            PositionSpec::Learned { offset } => self.context.checked_add(offset)?,
            PositionSpec::Rotary(_) => 0,
        };
        let attention = d.checked_mul(e)?.checked_mul(heads)?;
        let mlp = d.checked_mul(self.inner())?.checked_mul(self.mlp_matrices())?;
        let norms = match (self.architecture.residual.order, self.architecture.norm.placement) {
            (ResidualOrder::ParallelSharedNorm, _) => 1,
            (_, NormPlacement::Both) => 4,
            _ => 2,
        };
        let block = attention.checked_add(mlp)?.checked_add(d.checked_mul(norms)?)?;
        let heads = if self.tied { 1 } else { 2 };
        let rows = self.vocabulary.checked_mul(heads)?.checked_add(positions)?;
        self.layers.checked_mul(block)?.checked_add(d.checked_mul(rows)?)
    }

    /// Parameters of a block's matrices.
    pub fn block_matrices(&self) -> usize {
        let (d, e) = (self.width, self.head_width());
        d * e * (2 * self.heads + 2 * self.key_value_heads()) + self.mlp_matrices() * d * self.inner()
    }
}
