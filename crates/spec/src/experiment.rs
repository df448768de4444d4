//! The typed experiment, and the cells it spans.

use crate::arm::{Arm, Cell};
use crate::budget::BudgetSettings;
use crate::claim::Claim;
use crate::defaults::typed_default;
use crate::learner::{LearnerSettings, ModelNumbers, ModelShape};
use crate::search::{Trial, TuningSettings};
use crate::stages::Stages;
use crate::world::{JudgeSettings, WorldSettings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A whole comparison, every value resolved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    pub name: String,
    pub question: String,
    pub seeds: u64,
    pub seed: u64,
    pub world: WorldSettings,
    pub judge: JudgeSettings,
    pub model: ModelShape,
    pub learner: LearnerSettings,
    pub stages: Stages,
    pub budget: BudgetSettings,
    pub tuning: TuningSettings,
    pub evaluation: EvaluationSettings,
    pub slurm: SlurmSettings,
    pub arms: BTreeMap<String, Arm>,
    pub claims: Vec<Claim>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSettings {
    pub prompts: usize,
    pub samples_per_prompt: usize,
    pub best_of: usize,
    pub best_of_samples: usize,
    pub curve_points: usize,
    // left out where they are the defaults, so that the keys of stages made before them are unchanged
    #[serde(default = "default_curve_prompts", skip_serializing_if = "is_default_curve_prompts")]
    pub curve_prompts: usize,
    #[serde(default = "default_curve_samples", skip_serializing_if = "is_default_curve_samples")]
    pub curve_samples_per_prompt: usize,
    pub completions: usize,
    // left out where there is none, so that the keys of stages without it are unchanged
    #[serde(default, skip_serializing_if = "PairwiseSettings::is_off")]
    pub pairwise: PairwiseSettings,
}

/// A judge of pairs, a program or a language model, which compares finished policies with the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairwiseSettings {
    /// Program and arguments; empty for none.
    pub command: Vec<String>,
    // what only a model has is left out where it is the default, so that the keys of stages with a program are unchanged
    /// Where a language model is; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    #[serde(default, skip_serializing_if = "ModelNumbers::is_f32")]
    pub numbers: ModelNumbers,
    /// A Jinja template with `prompt`, `a` and `b`.
    #[serde(default = "default_question", skip_serializing_if = "is_default_question")]
    pub question: String,
    /// Test prompts, at most.
    pub prompts: usize,
    /// Seconds that a program has for a batch.
    pub timeout: f64,
    /// Lines written before a program's answers are read; questions that a model reads at once.
    pub batch: usize,
    pub version: String,
}

impl Default for PairwiseSettings {
    /// The values in `defaults.toml`.
    fn default() -> Self {
        typed_default(&["evaluation", "pairwise"])
    }
}

impl PairwiseSettings {
    /// Whether there is no such judge.
    pub fn is_off(&self) -> bool {
        self.command.is_empty() && !self.is_model()
    }

    /// Whether it is a language model.
    pub fn is_model(&self) -> bool {
        !self.model.is_empty()
    }
}

fn default_question() -> String {
    PairwiseSettings::default().question
}

fn is_default_question(question: &str) -> bool {
    question == default_question()
}

fn default_curve_prompts() -> usize {
    EvaluationSettings::defaults().curve_prompts
}

fn is_default_curve_prompts(prompts: &usize) -> bool {
    *prompts == default_curve_prompts()
}

fn default_curve_samples() -> usize {
    EvaluationSettings::defaults().curve_samples_per_prompt
}

fn is_default_curve_samples(samples: &usize) -> bool {
    *samples == default_curve_samples()
}

impl EvaluationSettings {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["evaluation"])
    }

    /// The largest N of best-of-N, a power of two.
    pub fn largest_best_of(&self) -> usize {
        1 << self.best_of.ilog2()
    }

    /// Prompts of each split on which best-of-N is sampled: as many as have a sample of the largest N within the limit.
    pub fn best_of_prompts(&self) -> usize {
        (self.best_of_samples / self.largest_best_of()).clamp(1, self.prompts)
    }
}

/// What `duel run --executor slurm` requests for each stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlurmSettings {
    pub partition: String,
    pub time: String,
    pub memory: String,
    pub shared_cores: usize,
    pub setup: String,
    pub extra: Vec<String>,
    pub retries: usize,
    pub poll: f64,
}

impl Experiment {
    /// Its name, and the question that it asks.
    pub fn title(&self) -> String {
        if self.question.is_empty() { self.name.clone() } else { format!("{}: {}", self.name, self.question) }
    }

    /// The experiment's seeds, in order.
    pub fn seed_list(&self) -> Vec<u64> {
        (self.seed..self.seed + self.seeds).collect()
    }

    /// Whether the model is loaded from pretrained weights.
    pub fn is_pretrained(&self) -> bool {
        !self.model.from.is_empty()
    }

    /// Whether settings are searched before arms are compared.
    pub fn is_tuned(&self) -> bool {
        self.tuning.configurations > 0
    }

    /// The seeds of the search, in order.
    pub fn tuning_seeds(&self) -> Vec<u64> {
        (self.tuning.seed..self.tuning.seed + self.tuning.seeds).collect()
    }

    /// Every point of every grid, on the experiment's own seeds: the trials of an experiment without tuning.
    pub fn trials(&self) -> Vec<Trial> {
        let seeds = self.seed_list();
        let arm_trials = |(name, arm): (&String, &Arm)| {
            let trial = |settings| Trial { arm: name.clone(), settings, seeds: seeds.clone(), tuning: false };
            arm.grid_settings().into_iter().map(trial).collect::<Vec<_>>()
        };
        self.arms.iter().flat_map(arm_trials).collect()
    }

    /// Every (arm, point, seed) of some trials, seeds outermost so that early results cover all arms.
    pub fn cells_for(&self, trials: &[Trial]) -> Vec<Cell> {
        let mut cells = Vec::new();
        let mut seeds: Vec<u64> = trials.iter().flat_map(|trial| trial.seeds.clone()).collect();
        seeds.sort_unstable();
        seeds.dedup();
        for seed in seeds {
            for trial in trials.iter().filter(|trial| trial.seeds.contains(&seed)) {
                let Some(arm) = self.arms.get(&trial.arm) else { continue };
                let point = arm.point(&trial.settings);
                cells.push(Cell { arm: trial.arm.clone(), point, seed, tuning: trial.tuning });
            }
        }
        cells
    }
}
