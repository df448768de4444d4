//! Claims: what an experiment is meant to show, written down before it is run.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A claim that one arm is better than another, or that two are equivalent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    pub id: String,
    pub statement: String,
    pub source: String,
    pub family: String,
    /// The arm claimed to be ahead, then the other; a single arm where the metric needs no comparison.
    pub arms: Vec<ArmRef>,
    pub metric: ClaimMetric,
    pub rule: ClaimRule,
    /// KL distances; each is a separate test.
    pub kl: Vec<f64>,
    /// The number of distances at which it must hold; 0: all.
    pub at_least: usize,
    pub smallest: f64,
}

impl Claim {
    /// The number of distances at which it must hold.
    pub fn needed(&self) -> usize {
        if self.at_least == 0 { self.kl.len() } else { self.at_least }
    }

    /// The KL distances at which it is tested; a single `None` for a metric without a distance.
    pub fn places(&self) -> Vec<Option<f64>> {
        if self.metric.is_at_kl() { self.kl.iter().copied().map(Some).collect() } else { vec![None] }
    }
}

/// An arm of this experiment, or of a sibling run: `arm@run`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ArmRef {
    pub arm: String,
    pub run: Option<String>,
}

impl From<String> for ArmRef {
    fn from(text: String) -> Self {
        match text.split_once('@') {
            Some((arm, run)) => Self { arm: arm.into(), run: Some(run.into()) },
            None => Self { arm: text, run: None },
        }
    }
}

impl From<ArmRef> for String {
    fn from(side: ArmRef) -> Self {
        side.to_string()
    }
}

impl fmt::Display for ArmRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.run {
            Some(run) => write!(f, "{}@{run}", self.arm),
            None => f.write_str(&self.arm),
        }
    }
}

/// The metric of a claim: the first arm's minus the second's, unless stated otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimMetric {
    /// Gold gain over the reference at one KL: as a share of the exact optimum's gain where that is known, else in standard
    /// deviations of the reference's gold.
    Gain,
    /// Probability that a response of the first arm at one KL has more gold than one of the second to the same prompt, ties half,
    /// minus ½.
    WinRate,
    /// The same among responses of equal length.
    WinRateAtLength,
    /// Tokens of a response at one KL.
    Length,
    /// Highest gold over all points and checkpoints, in standard deviations of the reference's gold.
    Peak,
    /// The drop from the peak at the largest KL, in the same unit; the proxy must have increased.
    Drop,
    /// Decrease of the log-probability of held-out chosen responses, in nats, mean over points.
    Displacement,
    /// Share of held-out pairs that the policy orders correctly, mean over points.
    Ordered,
    /// Log ratio of the FLOPs to reach half of the optimum's gain at one KL; median over seeds.
    Flops,
    /// The same for seconds.
    Seconds,
    /// Log ratio of the peak memory of a training.
    Memory,
    /// Models that a training keeps in memory; fewer at every seed.
    Models,
    /// Bytes of weights, gradients, optimizer and models that are only read, by count; fewer at every seed.
    TrainingBytes,
    /// Tokens that a training samples; fewer at every seed.
    Sampled,
    /// Log ratio of the standard deviations over seeds of the gain at one KL.
    Spread,
    /// Log ratio of the spread over points, by seed.
    SpreadOfPoints,
    /// Share of trainings that diverged; fewer.
    Diverged,
    /// Log ratio of the size of an update: KL from the old to the new policy, per token.
    Step,
}

/// The names of [`ClaimMetric`].
pub(crate) const CLAIM_METRICS: [&str; 18] = [
    "gain",
    "win_rate",
    "win_rate_at_length",
    "length",
    "peak",
    "drop",
    "displacement",
    "ordered",
    "flops",
    "seconds",
    "memory",
    "models",
    "training_bytes",
    "sampled",
    "spread",
    "spread_of_points",
    "diverged",
    "step",
];

/// The names of [`ClaimRule`].
pub(crate) const CLAIM_RULES: [&str; 2] = ["ahead", "equal"];

const LOG_RATIO: &str = "log of the ratio";

impl ClaimMetric {
    /// Whether it is read at one KL from the reference.
    pub fn is_at_kl(self) -> bool {
        matches!(
            self,
            Self::Gain
                | Self::WinRate
                | Self::WinRateAtLength
                | Self::Length
                | Self::Flops
                | Self::Seconds
                | Self::Spread
        )
    }

    /// Whether it can be evaluated for a single arm.
    pub fn stands_alone(self) -> bool {
        matches!(self, Self::Drop | Self::Displacement)
    }

    /// Whether it is a count without randomness.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Models | Self::TrainingBytes | Self::Sampled)
    }

    /// Whether it measures time or memory, and so the machine too.
    pub fn is_of_machine(self) -> bool {
        matches!(self, Self::Seconds | Self::Memory)
    }

    /// Whether it is the log of a ratio.
    pub fn is_log_ratio(self) -> bool {
        self.unit(true) == LOG_RATIO
    }

    /// Its unit, depending on whether the optimum is known exactly.
    pub fn unit(self, is_exact: bool) -> &'static str {
        match self {
            Self::Gain if is_exact => "of the optimum's gain",
            Self::Gain => "sd of the reference's gold",
            Self::WinRate | Self::WinRateAtLength | Self::Ordered | Self::Diverged => "share",
            Self::Length | Self::Sampled => "tokens",
            Self::Peak | Self::Drop => "sd of the reference's gold",
            Self::Displacement => "nats",
            Self::Models => "models",
            Self::TrainingBytes => "bytes",
            Self::Flops | Self::Seconds | Self::Memory | Self::Spread | Self::SpreadOfPoints | Self::Step => LOG_RATIO,
        }
    }
}

/// The condition under which a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimRule {
    /// The confidence interval is above zero, and the effect is at least `smallest`.
    Ahead,
    /// The whole confidence interval is within `smallest` of zero.
    Equal,
}
