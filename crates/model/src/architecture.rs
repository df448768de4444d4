//! How the blocks of a transformer are made, as independent choices. A model family (`families/`) is one
//! combination of them.

use crate::{Error, Result};
pub use duel_kernels::Activation;
use std::fmt::Debug;

/// Every choice that fixes what a model computes, besides its sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The family whose files hold such a model: how settings and tensors are named there. No computation depends on it.
    pub family: &'static str,
    pub norm: NormSpec,
    pub biases: BiasSpec,
    pub positions: PositionSpec,
    pub attention: AttentionSpec,
    pub mlp: MlpSpec,
    pub residual: ResidualSpec,
    /// The token embedding is multiplied by this.
    pub embedding_multiplier: f64,
    pub logits: LogitSpec,
    pub fused: FusedProjections,
}

/// The norms of a block, and the one before the head.
#[derive(Debug, Clone, PartialEq)]
pub struct NormSpec {
    pub kind: NormKind,
    /// Added to the variance.
    pub epsilon: f64,
    pub placement: NormPlacement,
    /// Whether queries and keys are normed, head by head.
    pub queries_and_keys: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Mean and variance, with gain and bias. Ba et al. 2016.
    Layer,
    /// Root mean square, with a gain. Zhang & Sennrich 2019.
    Rms,
    /// The same with a gain of 1 + w, as Gemma has it.
    RmsOnePlus,
}

/// Where norms are applied to attention and MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// `x + f(norm(x))`
    Before,
    /// `x + norm(f(x))`
    After,
    /// `x + norm(f(norm(x)))`
    Both,
}

/// Which linear maps have a bias.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BiasSpec {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output of attention.
    pub out: bool,
    pub mlp: bool,
    pub head: bool,
}

/// How a model knows the position of a token.
#[derive(Debug, Clone, PartialEq)]
pub enum PositionSpec {
    /// A table that is added to the embedding; position p is in row `p + offset`.
    Learned { offset: usize },
    /// Rotations of queries and keys. Su et al. 2021.
    Rotary(RotarySpec),
}

#[derive(Debug, Clone, PartialEq)]
pub struct RotarySpec {
    /// Base of the wavelengths.
    pub theta: f64,
    /// Share of a head's units that are rotated.
    pub fraction: f64,
    pub scaling: RopeScaling,
    /// Layers without positions.
    pub skipped_layers: Vec<usize>,
}

/// How the rotary frequencies are changed for contexts longer than those of pretraining.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low_frequency: f64, high_frequency: f64, original_context: usize },
    Yarn { factor: f64, beta_fast: f64, beta_slow: f64, attention_factor: f64, original_context: usize },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct AttentionSpec {
    /// Heads of keys and values, each shared by a group of query heads; `None`: one per query head.
    pub key_value_heads: Option<usize>,
    /// Units of one head, `E`; `None`: width / heads.
    pub head_width: Option<usize>,
    /// Tokens that each layer looks back, `None`: all; an empty list: all in every layer.
    pub windows: Vec<Option<usize>>,
    /// Factor of the scores; `None`: 1/√E.
    pub scale: Option<f64>,
    /// `cap·tanh(score / cap)`
    pub soft_cap: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MlpSpec {
    /// Hidden units, `F`.
    pub inner: usize,
    /// `down(activation(gate(x)) · up(x))`, Shazeer 2020, in place of `down(activation(up(x)))`.
    pub gated: bool,
    pub activation: Activation,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ResidualSpec {
    pub order: ResidualOrder,
    /// What attention and MLP add is multiplied by this.
    pub multiplier: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResidualOrder {
    /// The MLP reads what attention has added to.
    Serial,
    /// Both read the block's input.
    Parallel,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogitSpec {
    pub multiplier: f64,
    /// `cap·tanh(logit / cap)`
    pub soft_cap: Option<f64>,
}

/// Projections that are stored as one matrix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FusedProjections {
    /// Queries, keys and values side by side.
    pub qkv: bool,
    /// The gate of an MLP and what it gates.
    pub gate_up: bool,
}

impl Architecture {
    /// The base of the rotary positions, where a model has them.
    pub fn rope_theta(&self) -> Option<f64> {
        match &self.positions {
            PositionSpec::Rotary(rotary) => Some(rotary.theta),
            PositionSpec::Learned { .. } => None,
        }
    }

    /// Checks that the transformer computes every choice.
    ///
    /// # Errors
    /// [`Error::NotComputed`] with the first that it does not.
    pub fn check(&self) -> Result<()> {
        // every field by name, so that a new one is not forgotten
        let Self { family: _, norm, biases, positions, attention, mlp, residual, embedding_multiplier, logits, fused } =
            self;
        let NormSpec { kind, epsilon: _, placement, queries_and_keys } = norm;
        let BiasSpec { qkv: _, out: _, mlp: _, head } = biases;
        let AttentionSpec { key_value_heads, head_width, windows, scale, soft_cap } = attention;
        let MlpSpec { inner: _, gated, activation } = mlp;
        let ResidualSpec { order, multiplier } = residual;
        let FusedProjections { qkv: fused_qkv, gate_up } = fused;
        let is_activation = match gated {
            true => *activation == Activation::Silu,
            false => matches!(activation, Activation::SquaredRelu | Activation::GeluTanh),
        };
        let grouped = key_value_heads.is_some() || head_width.is_some();
        let choices: [(&'static str, bool, &dyn Debug); 14] = [
            ("norm.kind", *kind != NormKind::RmsOnePlus, kind),
            ("norm.placement", *placement == NormPlacement::Before, placement),
            ("norm.queries_and_keys", !queries_and_keys, queries_and_keys),
            ("biases.head", !head, head),
            ("positions", is_plain(positions), positions),
            ("attention.windows", windows.iter().all(Option::is_none), windows),
            ("attention.scale", scale.is_none(), scale),
            ("attention.soft_cap", soft_cap.is_none(), soft_cap),
            ("mlp.activation", is_activation, activation),
            ("residual", *order == ResidualOrder::Serial && *multiplier == 1.0, residual),
            ("embedding_multiplier", *embedding_multiplier == 1.0, embedding_multiplier),
            ("logits", logits.multiplier == 1.0 && logits.soft_cap.is_none(), logits),
            ("fused.qkv", !(*fused_qkv && grouped), attention),
            ("fused.gate_up", !gate_up, gate_up),
        ];
        match choices.into_iter().find(|(_, is_computed, _)| !is_computed) {
            Some((choice, _, value)) => Err(Error::NotComputed { choice, value: format!("{value:?}") }),
            None => Ok(()),
        }
    }
}

/// Whether positions are learned from row 0 on, or rotate whole heads of every layer without scaling.
fn is_plain(positions: &PositionSpec) -> bool {
    match positions {
        PositionSpec::Learned { offset } => *offset == 0,
        PositionSpec::Rotary(RotarySpec { theta: _, fraction, scaling, skipped_layers }) => {
            *fraction == 1.0 && *scaling == RopeScaling::None && skipped_layers.is_empty()
        }
    }
}
