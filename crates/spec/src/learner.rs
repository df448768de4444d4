//! Settings of the model and of its optimizer.

use crate::defaults::typed_default;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    pub from: String,
    pub mapped: bool,
    pub numbers: ModelNumbers,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub tied: bool,
}

/// What the matrices of a pretrained model are kept and multiplied in that are not trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelNumbers {
    #[default]
    F32,
    Bf16,
    Q8,
}

impl ModelNumbers {
    /// Whether nothing is rounded.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// Bytes of a number; with 8 bits, blocks of 32 share a scale of f32.
    pub fn bytes(&self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Q8 => 1.0 + 4.0 / 32.0,
        }
    }
}

/// The update rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    Adamw,
    Rmsprop,
    Lion,
}

impl OptimizerKind {
    /// Numbers that it keeps for each number it trains.
    pub fn moments(self) -> usize {
        match self {
            Self::Lion => 1,
            Self::Adamw => 2,
            Self::Rmsprop => 3,
        }
    }
}

/// The learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Constant,
    Linear,
    Cosine,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerSettings {
    pub optimizer: OptimizerKind,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub rms_alpha: f64,
    pub rms_epsilon: f64,
    pub rms_momentum: f64,
    pub rms_centred: bool,
    pub lion_beta1: f64,
    pub lion_beta2: f64,
    pub weight_decay: f64,
    pub decay_vectors: bool,
    pub decay_embeddings: bool,
    pub accumulate: usize,
    pub recompute: bool,
    /// Megabytes; it changes no number.
    pub logits_memory: usize,
    pub clip_norm: f64,
    pub schedule: Schedule,
    pub warmup: f64,
    pub final_rate: f64,
}

impl ModelShape {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["model"])
    }
}

impl LearnerSettings {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["learner"])
    }

    /// `logits_memory`, bytes.
    pub fn logits_bytes(&self) -> usize {
        self.logits_memory * 1_000_000
    }
}
