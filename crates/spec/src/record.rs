//! How numbers leave a room: rows of the metric catalogue with all clocks.

use crate::metrics::Metric;
use serde::{Deserialize, Serialize};

/// The clocks of a row. Arms differ in what a step costs, so every row carries all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// Optimizer steps of this stage.
    pub step: u64,
    /// Tokens that the stage has read or written: trained, sampled and scored.
    pub tokens: u64,
    /// Matrix-multiply FLOPs, by the rules of [`crate::metrics`].
    pub flops: f64,
    /// Seconds of work of this stage; evaluation is not counted.
    pub wall_seconds: f64,
}

/// The arm of a shared stage's rows.
pub const SHARED_ARM: &str = "shared";
/// The arm of the policy that all others start from.
pub const REFERENCE: &str = "reference";
/// The point of a shared stage's rows.
pub const NO_POINT: &str = "-";

/// One row of `metrics.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    pub arm: String,
    pub method: String,
    pub point: String,
    pub seed: u64,
    pub stage: String,
    pub clocks: Clocks,
    pub metric: String,
    pub value: f64,
}

/// One row of `completions.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub arm: String,
    pub point: String,
    pub seed: u64,
    pub step: u64,
    pub split: String,
    pub prompt: String,
    pub completion: String,
    pub gold_reward: f64,
    /// NaN where no reward model exists.
    pub proxy_reward: f64,
    /// log π(y|x) − log π_ref(y|x) of this response, nats.
    pub kl: f64,
    pub tokens: u32,
    /// Whether the response closed with EOS.
    pub ended: bool,
}

/// How likely a finished policy is to earn so much gold with a response of so many tokens to a prompt of the test split.
/// Of all outcomes of a policy and a prompt the shares sum to 1, but for those that are next to impossible.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// Its place in the split.
    pub prompt: u32,
    pub gold_reward: f64,
    /// Counted tokens, EOS included.
    pub tokens: u32,
    pub share: f32,
}

/// Takes what a training or an evaluation has to say.
pub trait Recorder {
    /// One value of the catalogue at these clocks.
    fn record(&mut self, stage: &str, clocks: Clocks, metric: Metric, value: f64);
    /// One kept response.
    fn completion(&mut self, completion: Completion);
    /// What the finished policy earns.
    fn outcomes(&mut self, outcomes: &[OutcomeRow]);
    /// Hashes of the distinct prompts that a training has read, or that an evaluation has measured on.
    fn prompts(&mut self, _of: &str, _hashes: &[u64]) {}
    /// How far the stage is, for whoever watches: done of total, and a few words.
    fn progress(&mut self, done: u64, total: u64, words: &str);

    /// Whether it is time to keep a training's state again.
    fn is_due(&self) -> bool {
        false
    }

    /// Keeps the state of a training of this name beside all that was said so far, to go on from there after a kill.
    fn keep(&mut self, _training: &str, _state: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    /// The last state that was kept of this training. What was said since then, or is not of this life, is forgotten: the
    /// rows are those of that moment.
    fn resume(&mut self, _training: &str) -> std::io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
