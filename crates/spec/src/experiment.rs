//! The typed experiment: what the merged document says, checked for range, and the cells it spans.

use crate::document::{Document, same};
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
    pub world: World,
    pub model: ModelShape,
    pub learner: LearnerSettings,
    pub stages: Stages,
    pub evaluation: Evaluation,
    pub arms: BTreeMap<String, Arm>,
}

/// Where prompts and judgements come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    Grammar,
    Reviews,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    pub kind: WorldKind,
    pub grammar: Grammar,
    pub reviews: Reviews,
}

/// Settings of task S1.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grammar {
    pub rho: f64,
    pub sft_rows: usize,
}

/// Settings of task S2.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reviews {
    pub data: String,
    pub vocabulary: usize,
    pub prompt_tokens: usize,
    pub response_tokens: usize,
    pub judged_words: usize,
    pub gold_clip: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub tied: bool,
}

/// What turns a gradient into a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    Adamw,
    Rmsprop,
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
    pub optimizer: Optimizer,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
    pub rms_alpha: f64,
    pub rms_epsilon: f64,
    pub rms_momentum: f64,
    pub rms_centred: bool,
    pub weight_decay: f64,
    pub decay_vectors: bool,
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
    Grammar: ["world", "grammar"];
    Ppo: ["method", "ppo"];
    Dpo: ["method", "dpo"];
}

/// A table of `defaults.toml`.
fn default_table(path: &[&str]) -> Value {
    let defaults: Table = toml::from_str(crate::defaults_text()).expect("defaults.toml is tested to parse");
    path.iter().fold(Value::Table(defaults), |table, key| table[*key].clone())
}

/// The same as its type.
fn default_of<T: serde::de::DeserializeOwned>(path: &[&str]) -> T {
    default_table(path).try_into().expect("defaults.toml is tested to be complete")
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
    pub label_flips: f64,
    pub length_bias: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RmStage {
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    pub prompts: usize,
    pub samples_per_prompt: usize,
    pub curve_points: usize,
    pub completions: usize,
}

/// A method with its settings and the grid swept over them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Arm {
    #[serde(flatten)]
    settings: Table,
    grid: BTreeMap<String, Vec<Value>>,
}

/// Whose score PPO climbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RewardSource {
    Rm,
    Gold,
}

/// Settings of [`Method::Ppo`]; units and sources in `defaults.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ppo {
    pub beta: f64,
    pub reward: RewardSource,
    pub iterations: usize,
    pub episodes: usize,
    pub epochs: usize,
    pub minibatches: usize,
    pub learning_rate: f64,
    pub clip_range: f64,
    pub value_clip_range: f64,
    pub value_coef: f64,
    pub gamma: f64,
    pub lambda: f64,
    pub target_kl: f64,
}

/// Where a nat of KL is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlPlace {
    Reward,
    Loss,
}

/// What a response's return is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// The mean return so far.
    Past,
    /// The mean of the others to the same prompt.
    LeaveOneOut,
    /// The mean to the same prompt.
    Group,
}

/// Settings of [`Method::Reinforce`], [`Method::Rloo`] and [`Method::Grpo`]; units and sources in `defaults.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticFree {
    pub beta: f64,
    pub kl: KlPlace,
    pub reward: RewardSource,
    pub iterations: usize,
    pub episodes: usize,
    pub group: usize,
    pub scale: bool,
    pub epochs: usize,
    pub minibatches: usize,
    pub learning_rate: f64,
    pub clip_range: f64,
    pub target_kl: f64,
}

/// Which loss a pair costs; equations in `duel_objectives::PreferenceLoss`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairLoss {
    Sigmoid,
    SigmoidAveraged,
    Robust,
    Hinge,
    Ipo,
    IpoAveraged,
    Exo,
    Nca,
    Sppo,
    ApoZero,
    ApoDown,
    Aot,
    AotUnpaired,
    Discopop,
    ForwardKl,
    AlphaDivergence,
    JsDivergence,
    Simpo,
    Orpo,
    KtoPair,
    Positive,
    PreferredFt,
    Unlikelihood,
}

/// The words for [`PairLoss`].
const PAIR_LOSSES: [&str; 23] = [
    "sigmoid",
    "sigmoid_averaged",
    "robust",
    "hinge",
    "ipo",
    "ipo_averaged",
    "exo",
    "nca",
    "sppo",
    "apo_zero",
    "apo_down",
    "aot",
    "aot_unpaired",
    "discopop",
    "forward_kl",
    "alpha_divergence",
    "js_divergence",
    "simpo",
    "orpo",
    "kto_pair",
    "positive",
    "preferred_ft",
    "unlikelihood",
];

impl PairLoss {
    /// Whether the loss looks at the reference's log-probs.
    pub fn reads_reference(self) -> bool {
        !matches!(self, Self::Simpo | Self::Orpo | Self::PreferredFt | Self::Unlikelihood)
    }

    /// Whether the loss reads this key of [`Dpo`].
    fn reads(self, key: &str) -> bool {
        match key {
            "beta" => !matches!(self, Self::PreferredFt | Self::Unlikelihood),
            "label_smoothing" => {
                matches!(self, Self::Sigmoid | Self::Robust | Self::Exo | Self::Aot | Self::AotUnpaired)
            }
            "simpo_margin" => self == Self::Simpo,
            "positive_lambda" => self == Self::Positive,
            "discopop_tau" => self == Self::Discopop,
            "alpha" => self == Self::AlphaDivergence,
            "unlikelihood_alpha" => self == Self::Unlikelihood,
            "nll_coef" => !matches!(self, Self::Orpo | Self::PreferredFt | Self::Unlikelihood), // they have it
            "reference_free" => self.reads_reference(),
            _ => true,
        }
    }
}

/// Settings of [`Method::Dpo`]; units and sources in `defaults.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpo {
    pub beta: f64,
    pub epochs: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    pub loss: PairLoss,
    pub label_smoothing: f64,
    pub simpo_margin: f64,
    pub positive_lambda: f64,
    pub discopop_tau: f64,
    pub alpha: f64,
    pub unlikelihood_alpha: f64,
    pub nll_coef: f64,
    pub reference_free: bool,
}

/// One setting of one arm, ready to train.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase")]
pub enum Method {
    Ppo(Ppo),
    Reinforce(CriticFree),
    Rloo(CriticFree),
    Grpo(CriticFree),
    Dpo(Dpo),
}

/// The words for [`Method`].
pub(crate) const METHODS: [&str; 5] = ["dpo", "grpo", "ppo", "reinforce", "rloo"];

impl Method {
    /// Name as written in the experiment file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ppo(_) => "ppo",
            Self::Reinforce(_) => "reinforce",
            Self::Rloo(_) => "rloo",
            Self::Grpo(_) => "grpo",
            Self::Dpo(_) => "dpo",
        }
    }

    /// Whose score it climbs; `None` where it reads preference rows.
    pub fn climbs(&self) -> Option<RewardSource> {
        match self {
            Self::Ppo(ppo) => Some(ppo.reward),
            Self::Reinforce(free) | Self::Rloo(free) | Self::Grpo(free) => Some(free.reward),
            Self::Dpo(_) => None,
        }
    }

    /// Whether it reads the reference's log-probs of preference rows.
    pub fn reads_reference_logp(&self) -> bool {
        matches!(self, Self::Dpo(dpo) if dpo.loss.reads_reference() && !dpo.reference_free)
    }

    /// Whether a setting of its block is read at all; if not, the setting that sees to that.
    fn ignores(&self, key: &str) -> Option<String> {
        let word = |x: serde_json::Value| x.as_str().unwrap_or_default().to_string();
        match self {
            Self::Dpo(dpo) if !dpo.loss.reads(key) => Some(format!("loss = \"{}\"", word(serde_json::json!(dpo.loss)))),
            Self::Reinforce(_) if matches!(key, "group" | "scale") => Some("method = \"reinforce\"".into()),
            Self::Rloo(_) if key == "scale" => Some("method = \"rloo\"".into()),
            _ => None,
        }
    }

    /// The price of one nat of KL, the one knob both methods share.
    pub fn beta(&self) -> f64 {
        match self {
            Self::Ppo(ppo) => ppo.beta,
            Self::Reinforce(free) | Self::Rloo(free) | Self::Grpo(free) => free.beta,
            Self::Dpo(dpo) => dpo.beta,
        }
    }
}

/// One setting of an arm's grid.
#[derive(Debug, Clone)]
pub struct Point {
    /// `beta=0.1`, with the other axes of the grid after it; `default` where there is no grid.
    pub label: String,
    pub method: Method,
}

/// What one worker runs.
#[derive(Debug, Clone)]
pub struct Cell {
    pub arm: String,
    pub point: Point,
    pub seed: u64,
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

    /// Every (arm, point, seed), seeds outermost so that early results span all arms.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for seed in self.seed_list() {
            for (name, arm) in &self.arms {
                for point in arm.points() {
                    cells.push(Cell { arm: name.clone(), point, seed });
                }
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
        if !self.model.width.is_multiple_of(self.model.heads.max(1)) {
            let found = format!("{} does not divide width {}", self.model.heads, self.model.width);
            return refuse("model.heads", found, "a divisor of model.width");
        }
        for (name, arm) in &self.arms {
            for point in arm.points() {
                let (episodes, minibatches, group) = match &point.method {
                    Method::Ppo(ppo) => (ppo.episodes, ppo.minibatches, 1),
                    Method::Reinforce(free) => (free.episodes, free.minibatches, 1),
                    Method::Rloo(free) | Method::Grpo(free) => (free.episodes, free.minibatches, free.group),
                    Method::Dpo(_) => continue,
                };
                if !episodes.is_multiple_of(minibatches) {
                    let found = format!("{minibatches} does not divide {episodes} episodes");
                    return refuse(&format!("arms.{name}.minibatches"), found, "a divisor of episodes");
                }
                if !episodes.is_multiple_of(group) {
                    let found = format!("{group} does not divide {episodes} episodes");
                    return refuse(&format!("arms.{name}.group"), found, "a divisor of episodes");
                }
                if group == 1 && matches!(point.method, Method::Rloo(_) | Method::Grpo(_)) {
                    return refuse(
                        &format!("arms.{name}.group"),
                        "1".into(),
                        "at least 2: a group is its own baseline",
                    );
                }
            }
        }
        self.check_clashes(document)?;
        let reviews = &self.world.reviews;
        if self.world.kind == WorldKind::Reviews
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
    /// A setting of an arm that is not its default, and that none of the arm's points reads. Where it comes from plays no
    /// part: a run's own copy of its experiment holds every value.
    fn check_clashes(&self, document: &Document) -> Result<()> {
        for (name, arm) in &self.arms {
            let points = arm.points();
            let defaults = default_table(&["method", points[0].method.name()]);
            let moved = |(setting, value): &(&String, &Value)| defaults.get(setting).is_some_and(|x| !same(x, value));
            let set = arm.settings.iter().filter(moved).map(|(setting, _)| (setting, ""));
            for (setting, table) in set.chain(arm.grid.keys().map(|axis| (axis, "grid."))) {
                let deaf: Option<Vec<String>> = points.iter().map(|point| point.method.ignores(setting)).collect();
                if let Some(with) = deaf.and_then(|with| with.into_iter().next()) {
                    let key = format!("arms.{name}.{table}{setting}");
                    return Err(Error::Clash { with, why: "it is not read".into(), place: document.place(&key), key });
                }
            }
        }
        Ok(())
    }
}

impl Arm {
    /// The points of the grid: the Cartesian product of its axes, the last axis fastest.
    pub fn points(&self) -> Vec<Point> {
        let mut settings = vec![(String::new(), self.settings.clone())];
        for (axis, values) in &self.grid {
            settings = settings
                .into_iter()
                .flat_map(|(label, table)| {
                    values.iter().map(move |value| {
                        let mut table = table.clone();
                        table.insert(axis.clone(), value.clone());
                        let comma = if label.is_empty() { "" } else { "," };
                        (format!("{label}{comma}{axis}={}", plain(value)), table)
                    })
                })
                .collect();
        }
        settings
            .into_iter()
            .map(|(label, table)| Point {
                label: if label.is_empty() { "default".into() } else { label },
                method: table.try_into().expect("the document checked every key, type and choice of an arm"),
            })
            .collect()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The words that a key accepts.
const CHOICES: [(&str, &[&str]); 7] = [
    ("world.kind", &["grammar", "reviews"]),
    ("learner.schedule", &["constant", "linear", "cosine"]),
    ("stages.pairs.temperature", &["fixed", "bayes"]),
    ("arms.*.method", &METHODS),
    ("arms.*.reward", &["rm", "gold"]),
    ("arms.*.loss", &PAIR_LOSSES),
    ("arms.*.kl", &["reward", "loss"]),
];

fn check_choices(document: &Document) -> Result<()> {
    for (key, value, _) in document.resolved() {
        let Some((_, accepted)) = CHOICES.iter().find(|(pattern, _)| matches_key(pattern, &key)) else { continue };
        let words = match &value {
            Value::Array(values) => values.clone(),
            single => vec![single.clone()],
        };
        for word in words {
            let found = plain(&word);
            if !accepted.contains(&found.as_str()) {
                return Err(Error::UnknownChoice {
                    place: document.place(&key),
                    key,
                    found,
                    accepted: accepted.to_vec(),
                });
            }
        }
    }
    Ok(())
}

/// Every number against its range, before types are taken: a negative count is out of range, not of a wrong type.
fn check_numbers(document: &Document) -> Result<()> {
    for (key, value, _) in document.resolved() {
        let key_path = key.as_str();
        let Some(rule) = range_of(key_path) else { continue };
        let values = match &value {
            Value::Array(values) => values.clone(),
            single => vec![single.clone()],
        };
        for value in values {
            let number = match value {
                Value::Integer(i) => i as f64,
                Value::Float(f) => f,
                _ => continue,
            };
            if !rule.holds(number) {
                return Err(Error::OutOfRange {
                    key: key_path.into(),
                    found: value.to_string(),
                    accepted: rule.text().into(),
                    place: document.place(key_path),
                });
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Range {
    Positive,
    AtLeastOne,
    NotNegative,
    Fraction,
    BelowOne,
    BelowHalf,
    Accuracy,
    Vocabulary,
    AtLeastTwo,
    Seeds,
    Size,
}

impl Range {
    fn holds(self, x: f64) -> bool {
        x.is_finite()
            && match self {
                Self::Positive => x > 0.0,
                Self::AtLeastOne => x >= 1.0,
                Self::AtLeastTwo => x >= 2.0,
                Self::Seeds => (1.0..=1000.0).contains(&x),
                Self::Size => (1.0..=16384.0).contains(&x),
                Self::NotNegative => x >= 0.0,
                Self::Fraction => (0.0..=1.0).contains(&x),
                Self::BelowOne => (0.0..1.0).contains(&x),
                Self::BelowHalf => (0.0..0.5).contains(&x),
                Self::Accuracy => x > 0.5 && x < 1.0,
                Self::Vocabulary => (300.0..=4096.0).contains(&x),
            }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Positive => "a number above 0",
            Self::AtLeastOne => "an integer of at least 1",
            Self::AtLeastTwo => "an integer of at least 2",
            Self::Seeds => "an integer from 1 to 1000",
            Self::Size => "an integer from 1 to 16384",
            Self::NotNegative => "a number of at least 0",
            Self::Fraction => "a number from 0 to 1",
            Self::BelowOne => "a number of at least 0 and below 1",
            Self::BelowHalf => "a number of at least 0 and below 0.5",
            Self::Accuracy => "a number above 0.5 and below 1",
            Self::Vocabulary => "an integer from 300 to 4096",
        }
    }
}

/// Ranges by key; `*` stands for an arm's name, and a grid axis has the range of its key.
const RANGES: [(&str, Range); 63] = [
    ("seeds", Range::Seeds),
    ("seed", Range::NotNegative),
    ("world.grammar.rho", Range::Fraction),
    ("world.grammar.sft_rows", Range::AtLeastOne),
    ("world.reviews.vocabulary", Range::Vocabulary),
    ("world.reviews.prompt_tokens", Range::AtLeastOne),
    ("world.reviews.response_tokens", Range::AtLeastTwo),
    ("world.reviews.judged_words", Range::AtLeastOne),
    ("world.reviews.gold_clip", Range::Positive),
    ("model.layers", Range::Size),
    ("model.width", Range::Size),
    ("model.heads", Range::Size),
    ("learner.adam_beta1", Range::BelowOne),
    ("learner.adam_beta2", Range::BelowOne),
    ("learner.adam_epsilon", Range::Positive),
    ("learner.rms_alpha", Range::BelowOne),
    ("learner.rms_epsilon", Range::Positive),
    ("learner.rms_momentum", Range::BelowOne),
    ("learner.weight_decay", Range::NotNegative),
    ("learner.clip_norm", Range::Positive),
    ("learner.warmup", Range::BelowOne),
    ("learner.final_rate", Range::Fraction),
    ("stages.base.steps", Range::AtLeastOne),
    ("stages.base.batch_size", Range::AtLeastOne),
    ("stages.base.window", Range::Size),
    ("stages.base.learning_rate", Range::Positive),
    ("stages.sft.steps", Range::AtLeastOne),
    ("stages.sft.batch_size", Range::AtLeastOne),
    ("stages.sft.learning_rate", Range::Positive),
    ("stages.pairs.rows", Range::AtLeastOne),
    ("stages.pairs.holdout_rows", Range::AtLeastOne),
    ("stages.pairs.tau", Range::Positive),
    ("stages.pairs.bayes_accuracy", Range::Accuracy),
    ("stages.pairs.label_flips", Range::BelowHalf),
    ("stages.rm.steps", Range::AtLeastOne),
    ("stages.rm.batch_size", Range::AtLeastOne),
    ("stages.rm.learning_rate", Range::Positive),
    ("evaluation.prompts", Range::AtLeastTwo),
    ("evaluation.samples_per_prompt", Range::AtLeastOne),
    ("evaluation.curve_points", Range::Size),
    ("evaluation.completions", Range::AtLeastOne),
    ("arms.*.beta", Range::Positive),
    ("arms.*.iterations", Range::AtLeastOne),
    ("arms.*.episodes", Range::AtLeastOne),
    ("arms.*.epochs", Range::AtLeastOne),
    ("arms.*.group", Range::AtLeastOne),
    ("arms.*.minibatches", Range::AtLeastOne),
    ("arms.*.batch_size", Range::AtLeastOne),
    ("arms.*.learning_rate", Range::Positive),
    ("arms.*.clip_range", Range::Positive),
    ("arms.*.value_clip_range", Range::Positive),
    ("arms.*.value_coef", Range::NotNegative),
    ("arms.*.gamma", Range::Fraction),
    ("arms.*.lambda", Range::Fraction),
    ("arms.*.target_kl", Range::Positive),
    ("arms.*.label_smoothing", Range::BelowHalf),
    ("arms.*.simpo_margin", Range::NotNegative),
    ("arms.*.positive_lambda", Range::NotNegative),
    ("arms.*.discopop_tau", Range::Positive),
    ("arms.*.alpha", Range::BelowOne),
    ("arms.*.unlikelihood_alpha", Range::Fraction),
    ("arms.*.nll_coef", Range::NotNegative),
    ("stages.pairs.length_bias", Range::NotNegative),
];

fn range_of(key: &str) -> Option<Range> {
    RANGES.iter().find(|(pattern, _)| matches_key(pattern, key)).map(|(_, range)| *range)
}

fn matches_key(pattern: &str, key: &str) -> bool {
    let key = key.replacen(".grid.", ".", 1);
    let (pattern, key): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), key.split('.').collect());
    pattern.len() == key.len() && pattern.iter().zip(&key).all(|(p, k)| *p == "*" || p == k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Experiment> {
        Experiment::from_document(&Document::parse("t.toml", text, &[])?)
    }

    #[test]
    fn a_grid_spans_its_product_and_is_paired_over_seeds() {
        let experiment = parse(
            "name = \"t\"\nseeds = 2\n[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = [0.1, 1]\nepochs = [1, 2, 3]\n",
        )
        .expect("valid");
        let cells = experiment.cells();
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
        assert_eq!(experiment.cells()[0].point.method.beta(), 0.3);
        assert!(Document::parse("t", text, &["nonsense".into()]).is_err());
    }

    #[test]
    fn every_word_for_a_loss_is_one_and_settings_that_no_loss_reads_clash() {
        for word in PAIR_LOSSES {
            let arm = format!("[arms.a]\nmethod = \"dpo\"\nloss = \"{word}\"\n");
            let found = match &parse(&arm).expect(word).cells()[0].point.method {
                Method::Dpo(dpo) => serde_json::to_value(dpo.loss).expect("a word"),
                other => panic!("a DPO arm, not {other:?}"),
            };
            assert_eq!(found, word);
        }
        let clash = |text: &str| matches!(parse(text), Err(Error::Clash { .. }));
        assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"ipo\"\nlabel_smoothing = 0.1\n"));
        assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"simpo\"\nreference_free = true\n"));
        assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"preferred_ft\"\n[arms.a.grid]\nbeta = [0.1, 1]\n"));
        // one of the grid's losses reads it
        assert!(!clash(
            "[arms.a]\nmethod = \"dpo\"\nlabel_smoothing = 0.1\n[arms.a.grid]\nloss = [\"ipo\", \"robust\"]\n"
        ));
    }

    #[test]
    fn every_numeric_default_has_a_range() {
        let document =
            Document::parse("t", "[arms.p]\nmethod=\"ppo\"\n[arms.d]\nmethod=\"dpo\"\n", &[]).expect("valid");
        for (key, value, _) in document.resolved() {
            if matches!(value, Value::Integer(_) | Value::Float(_)) {
                assert!(range_of(&key).is_some(), "{key} has no range");
            }
        }
    }
}
