//! What an experiment sets out to show, written down before it is run.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A claim that one arm is ahead of another, or that two are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    pub id: String,
    pub statement: String,
    pub source: String,
    pub family: String,
    /// The one that is claimed to be ahead, and the other; one alone where the metric says what it is held against.
    pub arms: Vec<ArmRef>,
    pub metric: ClaimMetric,
    pub rule: ClaimRule,
    /// Each is a test of its own.
    pub kl: Vec<f64>,
    /// At how many of them it must hold; 0: at all.
    pub at_least: usize,
    pub smallest: f64,
}

impl Claim {
    /// At how many of its distances it must hold.
    pub fn needed(&self) -> usize {
        if self.at_least == 0 { self.kl.len() } else { self.at_least }
    }

    /// Where it is tested: at each of its distances, or once.
    pub fn places(&self) -> Vec<Option<f64>> {
        if self.metric.is_at_kl() { self.kl.iter().copied().map(Some).collect() } else { vec![None] }
    }
}

/// An arm of the experiment, or of another one whose run lies beside this: `arm@run`.
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

/// What a claim is about: the first arm's less the second's, unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimMetric {
    /// Gold above the reference at one KL: as a share of the exact optimum's where that is known, else in standard deviations of
    /// the reference's gold.
    Gain,
    /// Chance that a response of the first at one KL has more gold than one of the second to the same prompt, ties half, less ½.
    WinRate,
    /// The same among responses of equal length.
    WinRateAtLength,
    /// Tokens of a response at one KL.
    Length,
    /// Most gold along all points and checkpoints, in standard deviations of the reference's.
    Peak,
    /// How much of it is gone at the largest KL, in the same; the proxy must have risen on the way.
    Drop,
    /// How far the log-probability of held-out chosen responses fell, nats, mean over points.
    Displacement,
    /// Share of held-out pairs that the policy puts in order, mean over points.
    Ordered,
    /// Log of how many times less the first needs to reach half of the optimum's gain at one KL; median over seeds.
    Flops,
    /// The same in seconds.
    Seconds,
    /// Log of how many times less memory a training needs at most.
    Memory,
    /// Models that a training keeps in memory: fewer at every seed.
    Models,
    /// Tokens that a training samples: fewer at every seed.
    Sampled,
    /// Log of how many times less the gain at one KL scatters over seeds.
    Spread,
    /// Log of how many times less points scatter in what they are worth, by seed.
    SpreadOfPoints,
    /// Share of trainings that diverged: fewer.
    Diverged,
    /// Log of how many times less far an update goes: KL of the policy before to the one after, a token.
    Step,
}

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

    /// Whether an arm alone can be judged by it.
    pub fn stands_alone(self) -> bool {
        matches!(self, Self::Drop | Self::Displacement)
    }

    /// Whether it is counted, without chance.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Models | Self::Sampled)
    }

    /// Whether it is the log of a ratio.
    pub fn is_log_ratio(self) -> bool {
        self.unit(true) == LOG_RATIO
    }

    /// Its unit, where the optimum is known exactly or is not.
    pub fn unit(self, is_exact: bool) -> &'static str {
        match self {
            Self::Gain if is_exact => "of the optimum's gain",
            Self::Gain => "sd of the reference's gold",
            Self::WinRate | Self::WinRateAtLength | Self::Ordered | Self::Diverged => "share",
            Self::Length | Self::Sampled => "tokens",
            Self::Peak | Self::Drop => "sd of the reference's gold",
            Self::Displacement => "nats",
            Self::Models => "models",
            Self::Flops | Self::Seconds | Self::Memory | Self::Spread | Self::SpreadOfPoints | Self::Step => LOG_RATIO,
        }
    }
}

/// What makes a claim true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimRule {
    /// The interval lies above zero, and the effect is at least the smallest.
    Ahead,
    /// The whole interval lies within the smallest effect of zero.
    Equal,
}
