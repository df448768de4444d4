//! What an experiment sets out to show, written down before it is run.

use serde::{Deserialize, Serialize};

/// A claim that one arm is ahead of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    pub id: String,
    pub statement: String,
    pub source: String,
    pub family: String,
    /// The one that is claimed to be ahead, and the other.
    pub arms: [String; 2],
    pub metric: ClaimMetric,
    pub kl: f64,
    pub smallest: f64,
}

/// What a claim is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimMetric {
    /// Gold above the reference at one KL; as a share of the exact optimum's where that is known.
    Gain,
    /// Cost of a training with what must come before it, as the log of the other's over its own.
    Flops,
    Seconds,
}
