//! Settings of the stages before the cells: base model, SFT, preference pairs, reward model.

use crate::defaults::typed_default;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stages {
    pub base: BaseStage,
    pub sft: SftStage,
    pub pairs: PairsStage,
    pub rm: RmStage,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseStage {
    pub steps: usize,
    pub batch_size: usize,
    pub window: usize,
    pub learning_rate: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftStage {
    pub steps: usize,
    pub batch_size: usize,
    // left out where it is the default, as in `RmStage`, so that the keys of stages without it are unchanged
    #[serde(skip_serializing_if = "is_true")]
    pub drop_last: bool,
    pub learning_rate: f64,
    pub lora: bool,
    pub lora_rank: usize,
    pub lora_alpha: f64,
}

/// How the Bradley–Terry temperature is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Temperature {
    Fixed,
    Bayes,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairsStage {
    pub rows: usize,
    pub holdout_rows: usize,
    pub temperature: Temperature,
    pub tau: f64,
    pub bayes_accuracy: f64,
    pub trap_rows: bool,
    pub max_edits: f64,
    pub label_flips: f64,
    pub length_bias: f64,
    pub ties: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmStage {
    // left out where it is empty, so that the keys of stages without it are unchanged
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    pub steps: usize,
    pub batch_size: usize,
    #[serde(skip_serializing_if = "is_true")]
    pub drop_last: bool,
    pub learning_rate: f64,
    pub model: RmModel,
    pub ridge: f64,
    pub start: RmStart,
    pub score: ScorePooling,
    pub ensemble: usize,
    pub ensemble_score: EnsembleScore,
    pub margin: f64,
    pub centring: f64,
    pub label_smoothing: f64,
    pub tie_margin: f64,
    pub keep: RmCheckpointSelection,
    pub checks: usize,
    pub patience: f64,
    pub samples: usize,
    pub lora: bool,
    pub lora_rank: usize,
    pub lora_alpha: f64,
}

/// The architecture of a reward model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RmModel {
    Transformer,
    /// Features of the world `grammar`.
    Linear,
}

/// The policy whose body initializes a reward model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RmStart {
    Sft,
    Base,
}

/// How the scalars at a response's tokens become its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScorePooling {
    Last,
    Mean,
}

/// How the scores of an ensemble are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnsembleScore {
    Mean,
    Worst,
    /// Mean minus standard deviation.
    Cautious,
}

/// The checkpoint of a reward model that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RmCheckpointSelection {
    Last,
    /// The most accurate on validation rows.
    Best,
}

fn is_true(value: &bool) -> bool {
    *value
}

impl SftStage {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["stages", "sft"])
    }
}

impl RmStage {
    /// Whether the reward model is pretrained, with its own tokenizer.
    pub fn is_pretrained(&self) -> bool {
        !self.from.is_empty()
    }

    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["stages", "rm"])
    }
}
