//! The typed experiment: what the merged document says, checked for range, and the cells it spans.

use crate::checks::{check_choices, check_numbers, check_slurm};
use crate::claim::{ArmRef, Claim};
use crate::document::{Document, defaults, same};
use crate::method::{Conflict, DpoSettings, KlControl, MethodSettings, PpoSettings, RolloutSettings};
use crate::pair_loss::PairInput;
use crate::record::REFERENCE;
use crate::search::{SampledSettings, Search, SearchDimension, Trial, TuningSettings};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};

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
    pub tuning: TuningSettings,
    pub evaluation: EvaluationSettings,
    pub slurm: SlurmSettings,
    pub arms: BTreeMap<String, Arm>,
    pub claims: Vec<Claim>,
}

/// Where prompts and judgements come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    Grammar,
    Reviews,
    Rows,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSettings {
    pub kind: WorldKind,
    pub grammar: GrammarSettings,
    pub reviews: ReviewsSettings,
    pub rows: RowsSettings,
}

/// A person's own rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsSettings {
    pub train: String,
    pub validation: String,
    pub test: String,
    pub holdout: f64,
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
    pub prompt_tokens: usize,
    pub response_tokens: usize,
    pub judged_words: usize,
    /// Year, month and day.
    pub date: String,
}

/// What earns gold reward in the worlds of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    World,
    Sentiment,
    Ratings,
    Rules,
    Command,
}

/// What of a text a judge reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgedText {
    Response,
    All,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSettings {
    pub kind: JudgeKind,
    pub reads: JudgedText,
    pub clip: f64,
    pub rules: Vec<Rule>,
    pub command: Vec<String>,
    pub timeout: f64,
    pub batch: usize,
    pub version: String,
}

fn one() -> f64 {
    1.0
}

/// One thing that is asked of a text, and what it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "lowercase", deny_unknown_fields)]
pub enum Rule {
    /// `−|words of the text − words| / per`
    Length {
        words: f64,
        per: f64,
        #[serde(default = "one")]
        weight: f64,
    },
    /// How many of the words are there at least once.
    Keyword {
        any: Vec<String>,
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 where the pattern is found.
    Regex {
        pattern: String,
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 where the text is JSON.
    Json {
        #[serde(default = "one")]
        weight: f64,
    },
}

/// Settings of the world `grammar`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrammarSettings {
    pub rho: f64,
    pub sft_rows: usize,
}

/// Settings of the world `reviews`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewsSettings {
    pub data: String,
    pub vocabulary: usize,
    pub prompt_tokens: usize,
    pub preface: String,
    pub response_tokens: usize,
    pub judged_words: usize,
    pub gold_clip: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    pub from: String,
    pub mapped: bool,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub tied: bool,
}

/// What turns a gradient into a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    Adamw,
    Rmsprop,
    Lion,
}

/// How the learning rate moves after warm-up.
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
    pub clip_norm: f64,
    pub schedule: Schedule,
    pub warmup: f64,
    pub final_rate: f64,
}

macro_rules! defaults {
    ($($settings:ty: $path:expr;)*) => {$(
        impl $settings {
            /// As `defaults.toml` has them.
            pub fn defaults() -> Self {
                default_of(&$path)
            }
        }
    )*};
}

defaults! {
    ModelShape: ["model"];
    LearnerSettings: ["learner"];
    GrammarSettings: ["world", "grammar"];
    ReviewsSettings: ["world", "reviews"];
    RowsSettings: ["world", "rows"];
    SftStage: ["stages", "sft"];
    RmStage: ["stages", "rm"];
    PpoSettings: ["method", "ppo"];
    DpoSettings: ["method", "dpo"];
}

/// Whether a text is a day of the calendar, as `2024-07-26`.
fn is_date(text: &str) -> bool {
    let number = |range: std::ops::Range<usize>| {
        text.get(range).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse::<u32>().ok()
    };
    let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else { return false };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    text.len() == 10
        && &text[4..5] == "-"
        && &text[7..8] == "-"
        && (1..=12).contains(&month)
        && (1..=days).contains(&day)
}

/// Each rule of the judge by itself, so that an error can name it.
fn check_rules(document: &Document) -> Result<()> {
    let rules = document.merged.get("judge").and_then(|judge| judge.get("rules")).and_then(Value::as_array);
    for (place, rule) in rules.into_iter().flatten().enumerate() {
        if let Err(e) = rule.clone().try_into::<Rule>() {
            let found = format!("in rule {}: {}", place + 1, e.message());
            let (expected, place) = ("a list of rules as `duel defaults` shows them", document.place("judge.rules"));
            return Err(Error::WrongType { key: "judge.rules".into(), expected, found, place });
        }
    }
    Ok(())
}

/// A table of `defaults.toml` as its type; a method's with all that it is like.
fn default_of<T: serde::de::DeserializeOwned>(path: &[&str]) -> T {
    let (mut defaults, methods) = defaults();
    defaults.insert("method".into(), Value::Table(methods));
    let table = path.iter().fold(Value::Table(defaults), |table, key| table[*key].clone());
    table.try_into().expect("defaults.toml is tested to be complete")
}

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
    pub learning_rate: f64,
    pub lora: bool,
    pub lora_rank: usize,
    pub lora_alpha: f64,
}

/// How the Bradley–Terry temperature is found.
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
    pub steps: usize,
    pub batch_size: usize,
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

/// What a reward model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RmModel {
    Transformer,
    /// Features of the world `grammar`.
    Linear,
}

/// Which policy's body a reward model starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RmStart {
    Sft,
    Base,
}

/// Which of the scalars after a response's tokens are its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScorePooling {
    Last,
    Mean,
}

/// What several reward models say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnsembleScore {
    Mean,
    Worst,
    /// Mean less the standard deviation.
    Cautious,
}

/// Which of a reward model's steps is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RmCheckpointSelection {
    Last,
    /// The most accurate on validation rows.
    Best,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSettings {
    pub prompts: usize,
    pub samples_per_prompt: usize,
    pub best_of: usize,
    pub curve_points: usize,
    pub completions: usize,
}

/// What is asked of a cluster for each stage.
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

/// A method with its settings and what is swept over them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Arm {
    #[serde(flatten)]
    settings: Table,
    pub search: Search,
    grid: BTreeMap<String, Vec<Value>>,
    space: BTreeMap<String, SearchDimension>,
}

/// One setting of an arm.
#[derive(Debug, Clone)]
pub struct ArmPoint {
    /// `beta=0.1`, with the other axes of the grid after it; `default` where there is no grid.
    pub label: String,
    /// What it sets beside what its arm does.
    pub settings: SampledSettings,
    pub method: MethodSettings,
}

/// What one worker runs.
#[derive(Debug, Clone)]
pub struct Cell {
    pub arm: String,
    pub point: ArmPoint,
    pub seed: u64,
    /// Whether it is looked at for a choice, or for the comparison itself.
    pub tuning: bool,
}

impl Cell {
    /// For people, and in a run's manifest: `ppo beta=0.1, seed 3`.
    pub fn label(&self) -> String {
        format!("{} {}, seed {}", self.arm, self.point.label, self.seed)
    }
}

impl Experiment {
    /// Reads, merges and checks an experiment file.
    ///
    /// # Errors
    /// Every mistake of [`Document::load`], and values out of range.
    pub fn load(path: &Path, overrides: &[String]) -> Result<(Self, Document)> {
        let document = Document::load(path, overrides)?;
        let experiment = Self::from_document(&document)?;
        Ok((experiment, document))
    }

    /// The typed view of a merged document.
    pub fn from_document(document: &Document) -> Result<Self> {
        check_choices(document)?;
        check_numbers(document)?;
        check_rules(document)?;
        let experiment: Self = document.merged.clone().try_into().map_err(|e: toml::de::Error| Error::WrongType {
            key: "experiment".into(),
            expected: "a value that fits its key",
            found: e.message().to_string(),
            place: document.place(""),
        })?;
        experiment.check_ranges(document)?;
        Ok(experiment)
    }

    /// The experiment's seeds, in order.
    pub fn seed_list(&self) -> Vec<u64> {
        (self.seed..self.seed + self.seeds).collect()
    }

    /// Whether the model is one that somebody else has trained.
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

    /// Every point of every grid, on the experiment's own seeds: what an experiment without tuning runs.
    pub fn trials(&self) -> Vec<Trial> {
        let seeds = self.seed_list();
        let of = |(name, arm): (&String, &Arm)| {
            let trial = |settings| Trial { arm: name.clone(), settings, seeds: seeds.clone(), tuning: false };
            arm.grid_settings().into_iter().map(trial).collect::<Vec<_>>()
        };
        self.arms.iter().flat_map(of).collect()
    }

    /// Every (arm, point, seed) of some trials, seeds outermost so that early results span all arms.
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

    fn check_ranges(&self, document: &Document) -> Result<()> {
        let refuse = |key: &str, found: String, accepted: &str| {
            Err(Error::OutOfRange { key: key.into(), found, accepted: accepted.into(), place: document.place(key) })
        };
        let name_ok = !self.name.is_empty()
            && !self.name.starts_with('.')
            && self.name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        if !name_ok {
            return refuse(
                "name",
                format!("`{}`", self.name),
                "letters, digits, `-`, `_` and `.`, as it names a folder",
            );
        }
        self.check_sizes(document)?;
        check_slurm(document, &self.slurm)?;
        if !self.model.width.is_multiple_of(self.model.heads.max(1)) {
            let found = format!("{} does not divide width {}", self.model.heads, self.model.width);
            return refuse("model.heads", found, "a divisor of model.width");
        }
        self.check_updates(document)?;
        self.check_clashes(document)?;
        self.check_search(document)?;
        self.check_claims(document)?;
        self.check_reward_model(document)?;
        self.check_model(document)?;
        let reviews = &self.world.reviews;
        if self.world.kind == WorldKind::Reviews
            && !self.is_pretrained()
            && 1 + reviews.prompt_tokens + reviews.response_tokens > self.stages.base.window
        {
            let found = format!("{} tokens", self.stages.base.window);
            let accepted = format!(
                "at least 1 + prompt_tokens + response_tokens = {}",
                1 + reviews.prompt_tokens + reviews.response_tokens
            );
            return refuse("stages.base.window", found, &accepted);
        }
        Ok(())
    }
}

impl Experiment {
    /// Counts of which one has to divide another, so that every planned update can be made.
    fn check_updates(&self, document: &Document) -> Result<()> {
        for (name, arm) in &self.arms {
            let refuse = |key: &str, found: String, accepted: String| {
                let key = format!("arms.{name}.{key}");
                Err(Error::OutOfRange { found, accepted, place: document.place(&key), key })
            };
            let between = |key: &&&str| arm.space.get(**key).is_some_and(|axis| axis.choices.is_empty());
            if let Some(key) = ["episodes", "minibatches", "group"].iter().find(between) {
                let accepted = "choices: of the numbers between two ends not every one divides".into();
                return refuse(&format!("space.{key}"), "low and high".into(), accepted);
            }
            for point in arm.representative_points() {
                if let MethodSettings::Dpo(DpoSettings { loss, batch_size: 1, .. }) = point.method
                    && loss.takes(PairInput::Mismatched)
                {
                    let word = loss.entry().word;
                    let accepted =
                        format!("at least 2 with loss = \"{word}\", which takes its KL from the neighbours in a batch");
                    return refuse("batch_size", "1".into(), accepted);
                }
                let Some(shared) = point.method.on_policy() else { continue };
                let &RolloutSettings { episodes, minibatches, kl_control, kl_horizon, .. } = shared;
                let group = point.method.group();
                if !episodes.is_multiple_of(group) {
                    let found = format!("{group} does not divide {episodes} episodes");
                    return refuse("group", found, format!("a divisor of episodes: {}", divisors(episodes)));
                }
                if group == 1 && matches!(point.method, MethodSettings::Rloo(_) | MethodSettings::Grpo(_)) {
                    return refuse("group", "1".into(), "at least 2: a group is its own baseline".into());
                }
                let (together, units) = point.method.unit();
                if !(episodes / together).is_multiple_of(minibatches) {
                    let count = episodes / together;
                    let of = if together == 1 { String::new() } else { format!(" of {together} episodes each") };
                    let found = format!("{minibatches} does not divide {count} {units}{of}");
                    return refuse("minibatches", found, format!("a divisor of the {units}: {}", divisors(count)));
                }
                if kl_control == KlControl::Adaptive && kl_horizon < episodes as f64 {
                    let found = format!("{kl_horizon}, with {episodes} episodes a rollout");
                    let accepted = "at least `episodes`: one rollout then moves beta by a fifth at most".into();
                    return refuse("kl_horizon", found, accepted);
                }
            }
        }
        Ok(())
    }

    /// Where the model comes from, against the world; and the judge.
    fn check_model(&self, document: &Document) -> Result<()> {
        let (kind, from) = (self.world.kind, self.is_pretrained());
        let clash = |key: &str, with: &str, why: &str| {
            Err(Error::Clash { key: key.into(), with: with.into(), why: why.into(), place: document.place(key) })
        };
        let missing = |key: &str, accepted: &str| {
            let place = document.place(key);
            Err(Error::Missing { key: key.into(), accepted: accepted.into(), place })
        };
        match kind {
            WorldKind::Grammar if from => {
                clash(
                    "model.from",
                    "world.kind = \"grammar\"",
                    "its words are its own, and no pretrained model knows them",
                )?;
            }
            WorldKind::Rows if !from => {
                missing("model.from", "with world.kind = \"rows\": a Hugging Face directory or a .gguf file")?;
            }
            WorldKind::Rows if self.world.rows.train.is_empty() => {
                missing("world.rows.train", "a file of preference rows")?;
            }
            _ => {}
        }
        if self.world.rows.validation.is_empty() != self.world.rows.test.is_empty() {
            clash("world.rows.validation", "world.rows.test", "they stand together, or both are taken from train")?;
        }
        let judge = &self.judge;
        if kind == WorldKind::Grammar && judge.kind != JudgeKind::World {
            clash("judge.kind", "world.kind = \"grammar\"", "its formula is its judge")?;
        }
        if judge.kind == JudgeKind::Rules && judge.rules.is_empty() {
            missing("judge.rules", "at least one rule")?;
        }
        if judge.kind == JudgeKind::Command && judge.command.is_empty() {
            missing("judge.command", "a program and its arguments")?;
        }
        if judge.kind != JudgeKind::Command && !judge.version.is_empty() {
            clash(
                "judge.version",
                "judge.kind",
                "only a \"command\" has a version; the other judges are hashed in whole",
            )?;
        }
        let date = &self.world.rows.date;
        if !is_date(date) {
            let place = document.place("world.rows.date");
            let accepted = "year, month and day, such as \"2024-07-26\"".into();
            return Err(Error::OutOfRange {
                key: "world.rows.date".into(),
                found: format!("`{date}`"),
                accepted,
                place,
            });
        }
        let is_spoken_to = from && kind == WorldKind::Reviews;
        if !self.world.reviews.preface.is_empty() && !is_spoken_to {
            clash(
                "world.reviews.preface",
                "model.from = \"\"",
                "only a pretrained model on reviews is spoken to first",
            )?;
        }
        if self.model.mapped {
            let why = "what is trained in whole cannot stay in its file";
            let whole = self
                .arms
                .iter()
                .find(|(_, arm)| arm.representative_points().iter().any(|point| !point.method.common().lora));
            if !from {
                clash("model.mapped", "model.from = \"\"", "a fresh model has no file")?;
            }
            if let Some((name, _)) = whole {
                clash("model.mapped", &format!("arms.{name}.lora = false"), why)?;
            }
            if self.stages.sft.steps > 0 {
                clash("model.mapped", "stages.sft.steps", "the SFT policy is held as a whole")?;
            }
            if !self.stages.rm.lora {
                clash("model.mapped", "stages.rm.lora = false", why)?;
            }
        }
        let (sft, defaults) = (&self.stages.sft, SftStage::defaults());
        if sft.steps == 0 && kind == WorldKind::Grammar {
            clash("stages.sft.steps", "world.kind = \"grammar\"", "it has no base model that could go without")?;
        }
        if sft.steps == 0 && sft.lora {
            clash("stages.sft.lora", "stages.sft.steps = 0", "nothing is trained")?;
        }
        if !sft.lora && sft.lora_rank != defaults.lora_rank {
            clash("stages.sft.lora_rank", "stages.sft.lora = false", "it is not read")?;
        }
        if !sft.lora && sft.lora_alpha != defaults.lora_alpha {
            clash("stages.sft.lora_alpha", "stages.sft.lora = false", "it is not read")?;
        }
        Ok(())
    }

    /// Settings of the reward model that cannot stand together.
    fn check_reward_model(&self, document: &Document) -> Result<()> {
        let (rm, defaults, reviews) = (&self.stages.rm, RmStage::defaults(), self.world.kind != WorldKind::Grammar);
        let linear = rm.model == RmModel::Linear;
        let last = rm.keep == RmCheckpointSelection::Last;
        let moved = [
            ("model", linear && reviews, "a world of text", "the linear model's features are those of grammar"),
            ("start", rm.start == RmStart::Base && !reviews, "world.kind = \"grammar\"", "grammar has no base model"),
            ("start", linear && rm.start != defaults.start, "model = \"linear\"", "it has no body to start"),
            ("score", linear && rm.score != defaults.score, "model = \"linear\"", "it has one number a response"),
            ("lora", linear && rm.lora, "model = \"linear\"", "it has no body to adapt"),
            ("lora_rank", !rm.lora && rm.lora_rank != defaults.lora_rank, "lora = false", "it is not read"),
            ("lora_alpha", !rm.lora && rm.lora_alpha != defaults.lora_alpha, "lora = false", "it is not read"),
            ("ensemble", linear && rm.ensemble > 1, "model = \"linear\"", "its fit is unique, so that all would agree"),
            ("tie_margin", linear && rm.tie_margin > 0.0, "model = \"linear\"", "its fit has no term for ties"),
            (
                "tie_margin",
                rm.tie_margin > 0.0 && rm.label_smoothing > 0.0,
                "label_smoothing",
                "the loss of tied rows has no term for flipped labels",
            ),
            ("centring", linear && rm.centring != defaults.centring, "model = \"linear\"", "it is not read"),
            ("keep", linear && !last, "model = \"linear\"", "it is fitted in one go"),
            ("patience", last && rm.patience != defaults.patience, "keep = \"last\"", "it is not read"),
            (
                "ensemble_score",
                rm.ensemble == 1 && rm.ensemble_score != defaults.ensemble_score,
                "ensemble = 1",
                "one model alone is its own mean and worst",
            ),
        ];
        let key = "stages.pairs.max_edits".to_string();
        if self.stages.pairs.max_edits.is_finite() && reviews {
            let (with, why) = ("a world of text".into(), "two long texts are never so near".into());
            return Err(Error::Clash { with, why, place: document.place(&key), key });
        }
        match moved.into_iter().find(|(_, clashes, ..)| *clashes) {
            Some((key, _, with, why)) => {
                let key = format!("stages.rm.{key}");
                Err(Error::Clash { with: with.into(), why: why.into(), place: document.place(&key), key })
            }
            None => Ok(()),
        }
    }

    /// A setting of an arm that is not its default, and that none of the arm's points reads. Where it comes from plays no
    /// part: a run's own copy of its experiment holds every value.
    fn check_clashes(&self, document: &Document) -> Result<()> {
        for (name, arm) in &self.arms {
            let points = arm.representative_points();
            let (_, methods) = defaults();
            let defaults = &methods[points[0].method.name()];
            let moved = |(setting, value): &(&String, &Value)| defaults.get(setting).is_some_and(|x| !same(x, value));
            let set = arm.settings.iter().filter(moved).map(|(setting, _)| (setting, ""));
            let axes = arm.grid.keys().map(|axis| (axis, "grid.")).chain(arm.space.keys().map(|axis| (axis, "space.")));
            for (setting, table) in set.chain(axes) {
                let deaf: Option<Vec<String>> =
                    points.iter().map(|point| point.method.inactive_because(setting)).collect();
                if let Some(with) = deaf.and_then(|with| with.into_iter().next()) {
                    let key = format!("arms.{name}.{table}{setting}");
                    return Err(Error::Clash { with, why: "it is not read".into(), place: document.place(&key), key });
                }
            }
            let coupled =
                |point: &ArmPoint| matches!(&point.method, MethodSettings::Dpo(dpo) if dpo.loss.entry().couples_pairs);
            if self.learner.accumulate > 1 && points.iter().any(coupled) {
                return Err(Error::Clash {
                    key: format!("arms.{name}.loss"),
                    with: "learner.accumulate".into(),
                    why: "the loss couples the pairs of a batch, which may not be read in parts".into(),
                    place: document.place(&format!("arms.{name}.loss")),
                });
            }
            if let Some(Conflict { key, with, why }) = points.iter().find_map(|point| point.method.conflict()) {
                let table = match (arm.grid.contains_key(key), arm.space.contains_key(key)) {
                    (true, _) => "grid.",
                    (_, true) => "space.",
                    _ => "",
                };
                let key = format!("arms.{name}.{table}{key}");
                return Err(Error::Clash { with, why: why.into(), place: document.place(&key), key });
            }
        }
        Ok(())
    }
}

impl Experiment {
    /// Claims that name what is not there.
    fn check_claims(&self, document: &Document) -> Result<()> {
        let refuse = |key: String, found: String, accepted: String| {
            Err(Error::OutOfRange { place: document.place("claims"), key, found, accepted })
        };
        for (place, claim) in self.claims.iter().enumerate() {
            let key = |key: &str| format!("claims.{key}");
            if claim.id.is_empty() || self.claims[..place].iter().any(|earlier| earlier.id == claim.id) {
                let accepted = "a name that no other claim has".into();
                return refuse(key("id"), format!("`{}`", claim.id), accepted);
            }
            let known: Vec<&str> = self.arms.keys().map(String::as_str).collect();
            let is_unknown =
                |side: &&ArmRef| side.run.is_none() && side.arm != REFERENCE && !self.arms.contains_key(&side.arm);
            if let Some(arm) = claim.arms.iter().find(is_unknown) {
                return refuse(
                    key("arms"),
                    format!("`{arm}` in claim {}", claim.id),
                    format!("arms of the experiment: {}", known.join(", ")),
                );
            }
            if claim.arms.first() == claim.arms.get(1) {
                return refuse(
                    key("arms"),
                    format!("`{}` twice in claim {}", claim.arms[0], claim.id),
                    "two arms".into(),
                );
            }
            if claim.arms.len() == 1 && !claim.metric.stands_alone() {
                let found = format!("`{}` alone in claim {}", claim.arms[0], claim.id);
                return refuse(key("arms"), found, "two arms: this metric holds one against another".into());
            }
            let is_number = |x: f64, from: f64| x >= from && x.is_finite();
            let places = &claim.kl;
            let are_places = !places.is_empty()
                && places[0] >= f64::MIN_POSITIVE
                && places.is_sorted_by(|a, b| a < b)
                && places.iter().all(|kl| kl.is_finite());
            if !are_places {
                let found = format!("{places:?} in claim {}", claim.id);
                return refuse(key("kl"), found, "numbers above 0, each larger than the one before".into());
            }
            if claim.at_least > places.len() {
                let found = format!("{} in claim {}", claim.at_least, claim.id);
                return refuse(key("at_least"), found, format!("a whole number of at most {}", places.len()));
            }
            if !is_number(claim.smallest, 0.0) || claim.smallest > 1e30 {
                let found = format!("{} in claim {}", claim.smallest, claim.id);
                return refuse(key("smallest"), found, "a number of at least 0 and at most 1e30".into());
            }
        }
        Ok(())
    }

    /// Searches that cannot be, or whose budgets would differ.
    fn check_search(&self, document: &Document) -> Result<()> {
        let clash = |key: String, with: &str, why: &str| {
            Err(Error::Clash { place: document.place(&key), key, with: with.into(), why: why.into() })
        };
        let tuning = &self.tuning;
        let (own, theirs) = (self.seed_list(), self.tuning_seeds());
        if self.is_tuned() && theirs.iter().any(|seed| own.contains(seed)) {
            return clash("tuning.seed".into(), "seed", "a seed that a choice was made on would be compared on");
        }
        for (name, arm) in &self.arms {
            let key = |key: &str| format!("arms.{name}.{key}");
            if arm.search == Search::Grid {
                if !arm.space.is_empty() {
                    return clash(key("space"), "search = \"grid\"", "a grid is not drawn from a space");
                }
                let points = arm.grid_settings().len();
                if self.is_tuned() && points != tuning.configurations {
                    let why =
                        format!("the grid has {points} points, and every arm is to try {}", tuning.configurations);
                    return clash(key("grid"), "tuning.configurations", &why);
                }
                if self.is_tuned() && tuning.flops.is_finite() {
                    return clash(key("search"), "tuning.flops", "a grid is tried as a whole");
                }
                continue;
            }
            if !arm.grid.is_empty() {
                return clash(key("grid"), "search", "its points are drawn from `space`");
            }
            if arm.space.is_empty() {
                return Err(Error::EmptyGrid { key: key("space"), place: document.place(&key("search")) });
            }
            if !self.is_tuned() {
                return clash(key("search"), "tuning.configurations = 0", "nothing says how many points to draw");
            }
            if arm.search == Search::Halving && tuning.seeds < 2 {
                return clash(key("search"), "tuning.seeds = 1", "no point falls behind on the evidence of one seed");
            }
        }
        Ok(())
    }
}

impl Arm {
    /// The grid's axes and how many values each has.
    pub fn axes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.grid.iter().map(|(axis, values)| (axis.as_str(), values.len()))
    }

    /// Points of the grid, or no fewer than the space has corners; of none of them is anything made.
    pub(crate) fn most_points(&self) -> usize {
        let axes = self.grid.values().map(Vec::len).chain(self.space.values().map(|axis| axis.ends().len()));
        axes.fold(1, usize::saturating_mul)
    }

    /// Whether a point may set this: an earlier experiment's, or one that is damaged, may not fit.
    pub fn fits(&self, settings: &SampledSettings) -> bool {
        let mut table = self.settings.clone();
        table.extend(settings.clone());
        table.try_into::<MethodSettings>().is_ok()
    }

    /// Where the settings of a search lie.
    pub fn space(&self) -> &BTreeMap<String, SearchDimension> {
        &self.space
    }

    /// A point of the space, each setting at its share of the way (in [0, 1)); those that do not count are left out.
    pub fn draw(&self, mut share: impl FnMut(&str, &SearchDimension) -> f64) -> SampledSettings {
        let mut drawn = SampledSettings::new();
        for conditional in [false, true] {
            for (name, axis) in self.space.iter().filter(|(_, axis)| axis.when.is_empty() != conditional) {
                if axis.counts(&drawn, &self.settings) {
                    let at = share(name, axis);
                    drawn.insert(name.clone(), axis.at(at));
                }
            }
        }
        drawn
    }

    /// Points that stand for all others where settings are checked: the grid's, or the space's corners.
    pub fn representative_points(&self) -> Vec<ArmPoint> {
        if self.space.is_empty() {
            return self.grid_settings().iter().map(|settings| self.point(settings)).collect();
        }
        let mut corners = vec![SampledSettings::new()];
        for conditional in [false, true] {
            for (name, axis) in self.space.iter().filter(|(_, axis)| axis.when.is_empty() != conditional) {
                let with = |drawn: SampledSettings| match axis.counts(&drawn, &self.settings) {
                    false => vec![drawn],
                    true => axis.ends().into_iter().map(|end| with_one(&drawn, name, end)).collect(),
                };
                corners = corners.into_iter().flat_map(with).collect();
            }
        }
        corners.iter().map(|settings| self.point(settings)).collect()
    }

    /// What the points of the grid set: the Cartesian product of its axes, the last axis fastest.
    pub fn grid_settings(&self) -> Vec<SampledSettings> {
        let mut settings = vec![SampledSettings::new()];
        for (axis, values) in &self.grid {
            let with = |drawn: SampledSettings| {
                values.iter().map(move |value| with_one(&drawn, axis, value.clone())).collect()
            };
            settings = settings.into_iter().flat_map(|drawn| -> Vec<SampledSettings> { with(drawn) }).collect();
        }
        settings
    }

    /// The arm with some settings of its own.
    pub fn point(&self, settings: &SampledSettings) -> ArmPoint {
        let words: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={}", value_text(value))).collect();
        let mut table = self.settings.clone();
        table.extend(settings.clone());
        ArmPoint {
            label: if words.is_empty() { "default".into() } else { words.join(",") },
            settings: settings.clone(),
            method: table.try_into().expect("the document checked every key, type and choice of an arm"),
        }
    }
}

/// The small divisors of a number, for people.
fn divisors(n: usize) -> String {
    let all: Vec<String> = (1..=n.min(256)).filter(|d| n.is_multiple_of(*d)).map(|d| d.to_string()).collect();
    all.join(", ")
}

fn with_one(drawn: &SampledSettings, name: &str, value: Value) -> SampledSettings {
    let mut drawn = drawn.clone();
    drawn.insert(name.into(), value);
    drawn
}

pub(crate) fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Experiment> {
        Experiment::from_document(&Document::parse("t.toml", text, &[])?)
    }

    fn first(experiment: &Experiment) -> MethodSettings {
        experiment.cells_for(&experiment.trials())[0].point.method.clone()
    }

    #[test]
    fn a_grid_spans_its_product_and_is_paired_over_seeds() {
        let experiment = parse(
            "name = \"t\"\nseeds = 2\n[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = [0.1, 1]\nepochs = [1, 2, 3]\n",
        )
        .expect("valid");
        let cells = experiment.cells_for(&experiment.trials());
        assert_eq!(cells.len(), 12);
        assert_eq!(cells[0].point.label, "beta=0.1,epochs=1");
        assert_eq!(cells[5].point.label, "beta=1,epochs=3");
        assert_eq!(cells[5].point.method.beta(), 1.0);
        assert_eq!((cells[5].seed, cells[6].seed), (0, 1));
    }

    #[test]
    fn mistakes_name_the_key_and_the_place() {
        let unknown = parse("name = \"t\"\n[arms.a]\nmethod = \"dpo\"\nbetta = 0.1\n").expect_err("unknown");
        assert!(matches!(&unknown, Error::UnknownKey { nearest: Some(n), .. } if n == "beta"), "{unknown:?}");
        let wrong = parse("name = \"t\"\nseeds = \"six\"\n[arms.a]\nmethod = \"dpo\"\n").expect_err("type");
        let place = wrong.place().expect("has a place").clone();
        assert_eq!(&place.text[place.span], "\"six\"");
        let range = parse("[stages.pairs]\nlabel_flips = 0.6\n[arms.a]\nmethod = \"dpo\"\n").expect_err("range");
        assert!(matches!(range, Error::OutOfRange { .. }), "{range:?}");
        let empty = parse("[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = []\n").expect_err("empty");
        assert!(matches!(empty, Error::EmptyGrid { .. }), "{empty:?}");
        let choice = parse("[arms.a]\nmethod = \"ppo\"\nreward = \"rn\"\n").expect_err("choice");
        assert!(matches!(choice, Error::UnknownChoice { .. }), "{choice:?}");
        assert!(matches!(parse("[arms.a]\nbeta = 0.1\n").expect_err("method"), Error::NoMethod { .. }));
        assert!(matches!(parse("seeds = 1\n").expect_err("arms"), Error::NoArms { .. }));
        assert!(matches!(
            parse("name = \"../up\"\n[arms.a]\nmethod=\"dpo\"\n").expect_err("name"),
            Error::OutOfRange { .. }
        ));
    }

    #[test]
    fn the_command_line_overrides_the_file_and_says_so() {
        let text = "seeds = 2\n[arms.a]\nmethod = \"dpo\"\nbeta = 0.1\n";
        let document =
            Document::parse("t", text, &["arms.a.beta=0.3".into(), "world.kind=grammar".into()]).expect("valid");
        assert_eq!(document.origin("arms.a.beta"), crate::Origin::CommandLine);
        assert_eq!(document.origin("seeds"), crate::Origin::File);
        assert_eq!(document.origin("seed"), crate::Origin::Default);
        let experiment = Experiment::from_document(&document).expect("valid");
        assert_eq!(first(&experiment).beta(), 0.3);
        assert!(Document::parse("t", text, &["nonsense".into()]).is_err());
    }

    #[test]
    fn every_word_for_a_loss_is_one_and_settings_that_no_loss_reads_clash() {
        for &word in crate::pair_loss::PAIR_LOSSES {
            let arm = format!("[arms.a]\nmethod = \"dpo\"\nloss = \"{word}\"\n");
            let found = match first(&parse(&arm).expect(word)) {
                MethodSettings::Dpo(dpo) => serde_json::to_value(dpo.loss).expect("a word"),
                other => panic!("a DPO arm, not {other:?}"),
            };
            assert_eq!(found, word);
        }
        let clash = |text: &str| matches!(parse(text), Err(Error::Clash { .. }));
        assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"ipo\"\nlabel_smoothing = 0.1\n"));
        assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"simpo\"\nreference_free = true\n"));
        assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"preferred_ft\"\n[arms.a.grid]\nbeta = [0.1, 1]\n"));
        assert!(clash(
            "[arms.a]\nmethod = \"dpo\"\nloss = \"kto\"\nkto_desirable = 0\n[arms.a.grid]\nkto_undesirable = [0, 1]\n"
        ));
        assert!(!clash("[arms.a]\nmethod = \"dpo\"\nloss = \"kto\"\nkto_desirable = 0\n"));
        // one of the grid's losses reads it
        assert!(!clash(
            "[arms.a]\nmethod = \"dpo\"\nlabel_smoothing = 0.1\n[arms.a.grid]\nloss = [\"ipo\", \"robust\"]\n"
        ));
    }

    const SPACE: &str =
        "[tuning]\nconfigurations = 4\n[arms.d]\nmethod = \"dpo\"\nsearch = \"random\"\n[arms.d.space]\n";

    #[test]
    fn a_space_is_drawn_from_and_its_conditions_hold() {
        let text = format!(
            "{SPACE}beta = {{ low = 1, high = 2 }}\nepochs = {{ low = 1, high = 3 }}\nloss = {{ choices = [\"ipo\", \"robust\"] }}\nlabel_smoothing = {{ low = 0.1, high = 0.2, when = {{ loss = [\"robust\"] }} }}\n"
        );
        let experiment = parse(&text).expect("valid");
        let arm = &experiment.arms["d"];
        assert_eq!(arm.point(&arm.draw(|_, _| 0.4)).label, "beta=1.4,epochs=2,loss=ipo");
        let robust = arm.point(&arm.draw(|name, _| if name == "loss" { 0.9 } else { 0.0 }));
        assert_eq!(robust.label, "beta=1.0,epochs=1,label_smoothing=0.1,loss=robust");
        assert_eq!(arm.representative_points().len(), 2 * 2 * (1 + 2));
    }

    #[test]
    fn claims_are_read_and_name_what_is_there() {
        let arms = "[arms.a]\nmethod = \"dpo\"\n[arms.b]\nmethod = \"ppo\"\n";
        let claim = |claim: &str| parse(&format!("{arms}[[claims]]\n{claim}\n"));
        let all = claim("id = \"B1\"\narms = [\"a\", \"b\"]\nkl = [2.0]").expect("valid").claims;
        assert_eq!((all.len(), &all[0].kl[..], all[0].smallest), (1, &[2.0][..], 0.05));
        let other = claim("id = \"B9\"\narms = [\"a@few-rows\", \"b\"]\nmetric = \"peak\"").expect("valid").claims;
        assert_eq!(other[0].arms[0], ArmRef { arm: "a".into(), run: Some("few-rows".into()) });
        assert!(claim("id = \"B6\"\narms = [\"a\"]\nmetric = \"drop\"\nkl = [0.5, 1]\nat_least = 1").is_ok());
        for refused in [
            "arms = [\"a\", \"b\"]",
            "id = \"B1\"",
            "id = \"B1\"\narms = [\"a\"]",
            "id = \"B1\"\narms = [\"a\", \"a\"]",
            "id = \"B1\"\narms = [\"a\", \"c\"]",
            "id = \"B1\"\narms = [\"a\", \"b\"]\nmetric = \"eta\"",
            "id = \"B1\"\narms = [\"a\", \"b\"]\nkl = [-1.0]",
            "id = \"B1\"\narms = [\"a\", \"b\"]\nkl = [1.0, 1.0]",
            "id = \"B1\"\narms = [\"a\", \"b\"]\nkl = []",
            "id = \"B1\"\narms = [\"a\", \"b\"]\nat_least = 2",
            "id = \"B1\"\narms = [\"a\", \"b\"]\nsmallest = inf",
            "id = \"B1\"\narms = [\"a\", \"b\"]\nkll = 1.0",
            "id = \"B1\"\narms = [\"a\", \"b\"]\n[[claims]]\nid = \"B1\"\narms = [\"a\", \"b\"]",
        ] {
            assert!(claim(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn searches_that_cannot_be_are_refused() {
        let axis = |axis: &str| parse(&format!("{SPACE}{axis}\n"));
        assert!(axis("beta = { low = 0.1, high = 1.0, log = true }").is_ok());
        for refused in [
            "beta = { low = 1.0, high = 0.1 }",
            "beta = { low = -1.0, high = 0.1 }",
            "beta = { low = 0.0, high = 0.1, log = true }",
            "beta = { low = 0.1 }",
            "beta = { choices = [0.1] }",
            "beta = { choices = [0.1, 0.1] }",
            "beta = { choices = [0.1, 0.2], low = 0.1 }",
            "beta = { low = \"a\", high = \"b\" }",
            "beta = 0.1",
            "betta = { low = 0.1, high = 0.2 }",
            "loss = { choices = [\"ipo\", \"ipx\"] }",
            "label_smoothing = { low = 0.1, high = 0.6 }",
            "label_smoothing = { low = 0.1, high = 0.2, when = { beta = [\"x\"] } }",
        ] {
            assert!(axis(refused).is_err(), "{refused}");
        }
        let clash = |text: &str| matches!(parse(text), Err(Error::Clash { .. }));
        let beta = "beta = { low = 0.1, high = 1.0 }\n";
        assert!(clash(&format!("seed = 99\n{SPACE}{beta}")), "tuning seeds are compared on");
        assert!(clash(&format!("{}{beta}", SPACE.replace("4", "0"))), "no number of points");
        assert!(clash(&format!("{}{beta}", SPACE.replace("random", "grid"))), "a grid with a space");
        assert!(clash("[tuning]\nconfigurations = 4\n[arms.d]\nmethod = \"dpo\"\ngrid.beta = [0.1, 0.2]\n"), "budgets");
        assert!(clash(&format!("{}{beta}", SPACE.replace("random", "halving").replace("4", "4\nseeds = 1"))));
        // of no use with every loss but one that is not drawn
        assert!(clash(&format!(
            "{SPACE}label_smoothing = {{ low = 0.1, high = 0.2, when = {{ loss = [\"ipo\"] }} }}\nloss = {{ choices = [\"ipo\", \"hinge\"] }}\n"
        )));
    }

    /// Whether a file with one arm is accepted; the error's text where it is not.
    fn refusal(arm: &str) -> Option<String> {
        parse(&format!("[arms.a]\n{arm}\n")).err().map(|e| e.to_string())
    }

    #[test]
    fn minibatches_divide_what_they_are_cut_from() {
        let accepted = [
            "method = \"ppo\"\nepisodes = 12\nminibatches = 4",
            "method = \"grpo\"\nepisodes = 12\nminibatches = 4\ngroup = 6", // parted groups are none the worse
            "method = \"online_dpo\"\nepisodes = 12\nminibatches = 3",
            "method = \"raft\"\nepisodes = 12\nminibatches = 3\ngroup = 4",
        ];
        for arm in accepted {
            assert_eq!(refusal(arm), None, "{arm}");
        }
        let refused = [
            ("method = \"ppo\"\nepisodes = 12\nminibatches = 5", "5 does not divide 12 episodes"),
            ("method = \"online_dpo\"\nepisodes = 12\nminibatches = 4", "4 does not divide 6 pairs of 2 episodes"),
            ("method = \"online_dpo\"\nepisodes = 6\nminibatches = 6", "6 does not divide 3 pairs"), // none would be left
            ("method = \"raft\"\nepisodes = 12\nminibatches = 4\ngroup = 4", "4 does not divide 3 groups"),
            ("method = \"rloo\"\nepisodes = 12\nminibatches = 3\ngroup = 5", "5 does not divide 12 episodes"),
            ("method = \"ppo\"\n[arms.a.grid]\nminibatches = [4, 3]\nepisodes = [256]", "3 does not divide 256"),
        ];
        for (arm, says) in refused {
            let found = refusal(arm).expect(arm);
            assert!(found.contains(says), "{arm}: {found}");
        }
        let range = format!("{}minibatches = {{ low = 1, high = 4 }}\n", SPACE.replace("dpo", "ppo"));
        assert!(matches!(parse(&range), Err(Error::OutOfRange { .. })), "3 of 1 to 4 does not divide 256");
        let choices = format!("{}minibatches = {{ choices = [1, 4] }}\n", SPACE.replace("dpo", "ppo"));
        assert!(parse(&choices).is_ok());
        assert!(
            refusal("method = \"dpo\"\nloss = \"kto\"\nbatch_size = 1").expect("no neighbour").contains("batch_size")
        );
    }

    #[test]
    fn a_horizon_is_no_shorter_than_a_rollout() {
        let horizon = |h: f64| {
            refusal(&format!("method = \"ppo\"\nkl_control = \"adaptive\"\nepisodes = 64\nkl_horizon = {h:?}"))
        };
        assert_eq!(horizon(64.0), None);
        assert!(horizon(63.0).expect("too short").contains("kl_horizon"));
    }

    #[test]
    fn every_numeric_default_has_a_range() {
        let document =
            Document::parse("t", "[arms.p]\nmethod=\"ppo\"\n[arms.d]\nmethod=\"dpo\"\n", &[]).expect("valid");
        for (key, value, _) in document.resolved() {
            if matches!(value, Value::Integer(_) | Value::Float(_)) {
                assert!(crate::checks::range_of(&key).is_some(), "{key} has no range");
            }
        }
    }
}
