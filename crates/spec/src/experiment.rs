//! The typed experiment: what the merged document says, checked for range, and the cells it spans.

use crate::checks::{check_choices, check_numbers};
use crate::document::{Document, defaults, same};
use crate::method::{Clash, Dpo, Method, OnPolicy, Ppo};
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
    pub optimizer: Optimizer,
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
    Grammar: ["world", "grammar"];
    Reviews: ["world", "reviews"];
    RmStage: ["stages", "rm"];
    Ppo: ["method", "ppo"];
    Dpo: ["method", "dpo"];
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
    pub ensemble: usize,
    pub ensemble_score: EnsembleScore,
    pub margin: f64,
    pub centring: f64,
    pub label_smoothing: f64,
    pub tie_margin: f64,
    pub keep: RmKeep,
    pub checks: usize,
    pub patience: f64,
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
pub enum RmKeep {
    Last,
    /// The most accurate on validation rows.
    Best,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    pub prompts: usize,
    pub samples_per_prompt: usize,
    pub best_of: usize,
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
                let Some(&OnPolicy { episodes, minibatches, .. }) = point.method.on_policy() else { continue };
                let group = point.method.group();
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
        self.check_reward_model(document)?;
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
    /// Settings of the reward model that cannot stand together.
    fn check_reward_model(&self, document: &Document) -> Result<()> {
        let (rm, defaults, reviews) = (&self.stages.rm, RmStage::defaults(), self.world.kind == WorldKind::Reviews);
        let linear = rm.model == RmModel::Linear;
        let last = rm.keep == RmKeep::Last;
        let moved = [
            (
                "model",
                linear && reviews,
                "world.kind = \"reviews\"",
                "the linear model's features are those of grammar",
            ),
            ("start", rm.start == RmStart::Base && !reviews, "world.kind = \"grammar\"", "grammar has no base model"),
            ("start", linear && rm.start != defaults.start, "model = \"linear\"", "it has no body to start"),
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
            let points = arm.points();
            let (_, methods) = defaults();
            let defaults = &methods[points[0].method.name()];
            let moved = |(setting, value): &(&String, &Value)| defaults.get(setting).is_some_and(|x| !same(x, value));
            let set = arm.settings.iter().filter(moved).map(|(setting, _)| (setting, ""));
            for (setting, table) in set.chain(arm.grid.keys().map(|axis| (axis, "grid."))) {
                let deaf: Option<Vec<String>> = points.iter().map(|point| point.method.ignores(setting)).collect();
                if let Some(with) = deaf.and_then(|with| with.into_iter().next()) {
                    let key = format!("arms.{name}.{table}{setting}");
                    return Err(Error::Clash { with, why: "it is not read".into(), place: document.place(&key), key });
                }
            }
            let coupled = |point: &Point| matches!(&point.method, Method::Dpo(dpo) if dpo.loss.couples_pairs());
            if self.learner.accumulate > 1 && points.iter().any(coupled) {
                return Err(Error::Clash {
                    key: format!("arms.{name}.loss"),
                    with: "learner.accumulate".into(),
                    why: "the loss couples the pairs of a batch, which may not be read in parts".into(),
                    place: document.place(&format!("arms.{name}.loss")),
                });
            }
            if let Some(Clash { key, with, why }) = points.iter().find_map(|point| point.method.clash()) {
                let key = format!("arms.{name}.{}{key}", if arm.grid.contains_key(key) { "grid." } else { "" });
                return Err(Error::Clash { with, why: why.into(), place: document.place(&key), key });
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

pub(crate) fn plain(value: &Value) -> String {
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
        for word in crate::method::PAIR_LOSSES {
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
                assert!(crate::checks::range_of(&key).is_some(), "{key} has no range");
            }
        }
    }
}
