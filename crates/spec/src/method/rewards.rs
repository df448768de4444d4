//! What a method on its own responses maximizes: one reward, or the weighted sum of several.

use super::common::Conflict;
use crate::world::{Rule, one};
use serde::{Deserialize, Serialize};

/// What gives a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RewardSource {
    /// The learned reward model.
    Rm,
    /// The world's own judge.
    Gold,
    /// The tokens of the response.
    Length,
    /// Rules of the arm's own.
    Rules,
}

/// The names of [`RewardSource`].
pub(crate) const REWARD_SOURCES: [&str; 4] = ["rm", "gold", "length", "rules"];

impl RewardSource {
    /// As in the experiment file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rm => "rm",
            Self::Gold => "gold",
            Self::Length => "length",
            Self::Rules => "rules",
        }
    }
}

/// One of several rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardTerm {
    pub from: RewardSource,
    #[serde(default = "one")]
    pub weight: f64,
    /// Of [`RewardSource::Rules`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

/// What is maximized.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RewardSettings {
    One(RewardSource),
    /// The weighted sum of these.
    Sum(Vec<RewardTerm>),
}

impl RewardSettings {
    /// The weight of a reward; `None` where it is not among those that are maximized.
    pub fn weight(&self, source: RewardSource) -> Option<f64> {
        match self {
            Self::One(single) => (*single == source).then_some(1.0),
            Self::Sum(terms) => terms.iter().find(|term| term.from == source).map(|term| term.weight),
        }
    }

    /// The rules of the arm's own; empty where it has none.
    pub fn rules(&self) -> &[Rule] {
        match self {
            Self::One(_) => &[],
            Self::Sum(terms) => {
                terms.iter().map(|term| term.rules.as_slice()).find(|rules| !rules.is_empty()).unwrap_or(&[])
            }
        }
    }

    /// Whether there is one reward alone; as the experiment file has it.
    pub(super) fn alone(&self) -> Option<String> {
        match self {
            Self::One(source) => Some(format!("reward = \"{}\"", source.name())),
            Self::Sum(terms) if terms.len() < 2 => Some("a single reward".into()),
            Self::Sum(_) => None,
        }
    }
}

/// How several rewards become one advantage; trl's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MultiObjectiveAggregation {
    SumThenNormalize,
    /// GDPO: each reward is normalized within its group.
    NormalizeThenSum,
}

/// As the experiment file has it.
const NORMALIZE_THEN_SUM: &str = "multi_objective_aggregation = \"normalize_then_sum\"";

impl MultiObjectiveAggregation {
    /// The setting because of which `key` is not used, where this is it.
    pub(super) fn ignores(self, key: &str) -> Option<&'static str> {
        let of_the_sum = ["scale", "scores", "score_clip", "eos_penalty", "overlong_buffer", "overlong_penalty"];
        (self == Self::NormalizeThenSum && of_the_sum.contains(&key)).then_some(NORMALIZE_THEN_SUM)
    }

    /// A setting of a method that it cannot be combined with; `penalized` is whether the KL is penalized in the reward.
    pub(super) fn conflict(self, method: &str, penalized: bool) -> Option<Conflict> {
        if self == Self::SumThenNormalize {
            return None;
        }
        if method != "grpo" {
            let with = format!("method = \"{method}\"");
            let why = "each reward is normalized within the group of responses to a prompt, as grpo's are; this method \
                       maximizes their weighted sum";
            return Some(Conflict { key: "multi_objective_aggregation", with, why });
        }
        let why = "a penalty in the reward is none of the rewards that are normalized; kl = \"loss\" is grpo's";
        penalized.then(|| Conflict { key: "kl", with: NORMALIZE_THEN_SUM.into(), why })
    }
}
