//! How crates report numbers: rows of the metric catalogue with all clocks.

use crate::metrics::Metric;
use serde::{Deserialize, Serialize};

/// The clocks of a row. The cost of a step differs between arms, so every row has all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    /// Optimizer steps of this stage.
    pub step: u64,
    /// Tokens processed by the stage: trained, sampled and scored.
    pub tokens: u64,
    /// Matrix-multiply FLOPs, by the rules of [`crate::metrics`].
    pub flops: f64,
    /// Seconds of this stage, without evaluation.
    pub wall_seconds: f64,
}

/// The arm of a shared stage's rows.
pub const SHARED_ARM: &str = "shared";
/// The arm of the SFT policy, from which all others start.
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
    /// NaN without a reward model.
    pub proxy_reward: f64,
    /// log π(y|x) − log π_ref(y|x) of this response, nats.
    pub kl: f64,
    pub tokens: u32,
    /// Whether the response ends with EOS.
    pub ended: bool,
}

/// The probability that a finished policy's response to a test prompt has this gold reward and length. Over all outcomes of a
/// policy and a prompt the shares sum to 1, except for very improbable ones, which are left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// The prompt's index in the split.
    pub prompt: u32,
    pub gold_reward: f64,
    /// Tokens, EOS included.
    pub tokens: u32,
    pub share: f32,
}

/// Receives the results of a training or an evaluation.
pub trait Recorder {
    /// Records one value of a metric at these clocks.
    fn record(&mut self, stage: &str, clocks: Clocks, metric: Metric, value: f64);
    /// Records one sample response.
    fn completion(&mut self, completion: Completion);
    /// Records the outcomes of the finished policy.
    fn outcomes(&mut self, outcomes: &[OutcomeRow]);
    /// Records the hashes of the distinct prompts of a training or an evaluation.
    fn prompts(&mut self, _of: &str, _hashes: &[u64]) {}
    /// Reports progress: done of total, with a short message.
    fn progress(&mut self, done: u64, total: u64, message: &str);

    /// Whether a checkpoint is due.
    fn is_due(&self) -> bool {
        false
    }

    /// Writes a checkpoint: the state of the training with this name, with all rows so far.
    fn save(&mut self, _training: &str, _state: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    /// Restores the last checkpoint of this training: returns its state, and replaces all rows with those of the checkpoint.
    fn resume(&mut self, _training: &str) -> std::io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
}
