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
    pub queries_and_keys: QueryKeyNorm,
}

/// How queries and keys are normed before they are rotated, each with gains of its own. Dehghani et al. 2023.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    None,
    /// Each head by itself, with gains `[E]` that all heads share.
    PerHead,
    /// All heads together, with gains `[H·E]` and `[G·E]`.
    Joint,
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
    /// Share of a head's units that are rotated: the first ones.
    pub fraction: f64,
    pub scaling: RopeScaling,
    /// Base of the wavelengths in layers with a window, which are then not scaled; `None`: as in all layers.
    pub windowed_theta: Option<f64>,
    /// Layers without positions.
    pub skipped_layers: Vec<usize>,
}

impl RotarySpec {
    /// Rotations of whole heads in every layer, not scaled.
    pub fn plain(theta: f64) -> Self {
        let (scaling, windowed_theta) = (RopeScaling::None, None);
        Self { theta, fraction: 1.0, scaling, windowed_theta, skipped_layers: vec![] }
    }

    /// Units of a head that are rotated, of `head_width`.
    pub fn rotated(&self, head_width: usize) -> usize {
        (head_width as f64 * self.fraction) as usize
    }
}

/// How the rotary frequencies are changed for contexts longer than those of pretraining.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided. Chen et al. 2023.
    Linear {
        factor: f64,
    },
    /// A larger base beyond the model's context, where nothing is read: within it nothing changes.
    Dynamic {
        factor: f64,
    },
    /// Low frequencies divided, high ones not, and a ramp between them. Grattafiori et al. 2024.
    Llama3 {
        factor: f64,
        low_frequency: f64,
        high_frequency: f64,
        original_context: usize,
    },
    /// A ramp over the frequencies, and `cos` and `sin` times `attention_factor`. Peng et al. 2023.
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        attention_factor: f64,
        original_context: usize,
        /// Whether the ends of the ramp are rounded to whole frequencies.
        truncate: bool,
    },
    /// Each frequency divided by a factor of its own, and `cos` and `sin` times `attention_factor`. Ding et al. 2024.
    LongRope {
        /// Factors up to the original context, the longest that is read. `[rotated/2]`
        short_factors: Vec<f64>,
        /// Those beyond it.
        long_factors: Vec<f64>,
        attention_factor: f64,
        original_context: usize,
        /// The context with the long factors.
        long_context: usize,
    },
    /// Each frequency divided by a factor of its own, as GGUF files hold them. `[rotated/2]`
    Factors(Vec<f64>),
}

impl RopeScaling {
    /// The longest sequences that are read, of a model made for `context`.
    pub(crate) fn context(&self, context: usize) -> usize {
        match self {
            Self::LongRope { original_context, .. } => context.min(*original_context),
            _ => context,
        }
    }

    /// The context that a model says it is made for, which reads sequences of `context`.
    pub(crate) fn longest(&self, context: usize) -> usize {
        match self {
            Self::LongRope { long_context, .. } => *long_context,
            _ => context,
        }
    }
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
    /// Both read the block's input, each through a norm of its own.
    Parallel,
    /// Both read the block's input through one norm.
    ParallelSharedNorm,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogitSpec {
    pub multiplier: f64,
    /// `cap·tanh(logit / cap)`
    pub soft_cap: Option<f64>,
}

impl LogitSpec {
    /// Logits as the head gives them.
    pub const PLAIN: Self = Self { multiplier: 1.0, soft_cap: None };
}

/// Projections that are one matrix, in files and in memory: an adapter on it is one adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FusedProjections {
    /// How queries, keys and values lie side by side, where they are one matrix.
    pub qkv: Option<QkvLayout>,
    /// The gate of an MLP and what it gates, side by side.
    pub gate_up: bool,
}

/// The outputs of a joint projection to queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvLayout {
    /// All queries, all keys, all values: `[(H + 2G)·E]`.
    Stacked,
    /// Queries, keys and values of one head after another: `[H·3·E]`.
    PerHead,
}

impl Architecture {
    /// The base of the rotary positions, where a model has them.
    pub fn rope_theta(&self) -> Option<f64> {
        self.rotary().map(|rotary| rotary.theta)
    }

    /// The rotary positions, where a model has them.
    pub fn rotary(&self) -> Option<&RotarySpec> {
        match &self.positions {
            PositionSpec::Rotary(rotary) => Some(rotary),
            PositionSpec::Learned { .. } => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn rotary_mut(&mut self) -> Option<&mut RotarySpec> {
        match &mut self.positions {
            PositionSpec::Rotary(rotary) => Some(rotary),
            PositionSpec::Learned { .. } => None,
        }
    }

    /// Tokens that a layer looks back, itself included; `None`: all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.attention.windows.get(layer).copied().flatten()
    }

    /// Checks that the choices fit each other: all that do are computed.
    ///
    /// # Errors
    /// [`Error::NotComputed`] with the first that does not.
    pub fn check(&self) -> Result<()> {
        let grouped = self.attention.key_value_heads.is_some();
        let Self { norm, mlp, residual, fused, .. } = self;
        let is_parallel = residual.order != ResidualOrder::Serial;
        let choices: [(&'static str, bool, &dyn Debug); 3] = [
            ("residual.order", !(is_parallel && norm.placement != NormPlacement::Before), &residual.order),
            ("fused.qkv", !(grouped && fused.qkv == Some(QkvLayout::PerHead)), &fused.qkv),
            ("fused.gate_up", !fused.gate_up || mlp.gated, &fused.gate_up),
        ];
        match choices.into_iter().find(|(_, is_computed, _)| !is_computed) {
            Some((choice, _, value)) => Err(Error::NotComputed { choice, value: format!("{value:?}") }),
            None => Ok(()),
        }
    }
}
