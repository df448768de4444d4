//! The settings of losses on pairs.

use super::common::{CommonSettings, Conflict};
use crate::defaults::typed_default;
use crate::pair_loss::{PairInput, PairLoss, PairLossEntry};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of [`MethodSettings::Dpo`](super::MethodSettings::Dpo); units and sources in `defaults.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DpoSettings {
    #[serde(flatten)]
    pub common: CommonSettings,
    pub beta: f64,
    pub epochs: f64,
    pub max_steps: u64,
    pub batch_size: usize,
    pub drop_last: bool,
    pub learning_rate: f64,
    pub loss: PairLoss,
    pub label_smoothing: f64,
    pub simpo_margin: f64,
    pub positive_lambda: f64,
    pub discopop_tau: f64,
    pub alpha: f64,
    pub unlikelihood_alpha: f64,
    pub nll_coef: f64,
    pub margin: f64,
    pub tie_margin: f64,
    pub kto_desirable: f64,
    pub kto_undesirable: f64,
    pub reference_free: bool,
    /// Empty: `loss` alone.
    pub loss_weights: BTreeMap<PairLoss, f64>,
    pub ld_alpha: f64,
    pub use_weighting: bool,
    pub dynamic_beta: f64,
    pub dynamic_beta_momentum: f64,
    pub dynamic_beta_filter: f64,
    pub sync_ref_model: bool,
    pub ref_model_mixup_alpha: f64,
    pub ref_model_sync_steps: u64,
}

impl DpoSettings {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["method", "dpo"])
    }

    /// The losses and their weights, in the order of the table.
    pub fn losses(&self) -> Vec<(PairLoss, f64)> {
        if self.loss_weights.is_empty() {
            return vec![(self.loss, 1.0)];
        }
        self.loss_weights.iter().map(|(&loss, &weight)| (loss, weight)).collect()
    }

    /// Batches of an epoch over so many rows.
    pub fn batches_per_epoch(&self, rows: usize) -> usize {
        let size = self.batch_size.min(rows);
        if self.drop_last { rows / size } else { rows.div_ceil(size) }
    }

    /// Optimizer steps over so many rows: `max_steps`, or those of the epochs, rounded up.
    pub fn steps(&self, rows: usize) -> u64 {
        if self.max_steps > 0 {
            return self.max_steps;
        }
        self.steps_of_epochs(rows)
    }

    fn steps_of_epochs(&self, rows: usize) -> u64 {
        let steps = self.epochs * self.batches_per_epoch(rows) as f64;
        (steps * (1.0 - 1e-12)).ceil() as u64 // 1.1 · 10 is a little more than 11
    }

    /// Whether a loss reads an input.
    pub fn takes(&self, input: PairInput) -> bool {
        self.losses().into_iter().any(|(loss, _)| loss.takes(input))
    }

    /// Whether the reference itself is read while the policy trains, not only its log-probs of before.
    pub fn holds_reference(&self) -> bool {
        self.sync_ref_model || self.takes(PairInput::Mismatched)
    }

    /// Whether it follows the margins of its batches.
    pub fn follows_margins(&self) -> bool {
        self.dynamic_beta != 0.0 || self.dynamic_beta_filter < 1.0
    }

    /// Whether a batch's loss is more than the mean of its pairs' losses.
    pub fn couples_pairs(&self) -> bool {
        self.dynamic_beta != 0.0 || self.losses().into_iter().any(|(loss, _)| loss.entry().couples_pairs)
    }

    /// Whether the two responses of a row may answer different prompts.
    pub fn allows_unpaired(&self) -> bool {
        self.losses().into_iter().all(|(loss, _)| loss.entry().unpaired)
    }

    /// As the experiment file has the losses.
    fn losses_as_written(&self) -> String {
        match self.loss_weights.is_empty() {
            true => format!("loss = \"{}\"", self.loss.entry().word),
            false => "loss_weights".into(),
        }
    }

    /// The setting, if any, because of which `key` is not used.
    pub(super) fn ignores(&self, key: &str) -> Option<String> {
        match key {
            "loss" if !self.loss_weights.is_empty() => Some("loss_weights".into()),
            "epochs" if self.max_steps > 0 => Some("max_steps".into()),
            "ref_model_mixup_alpha" | "ref_model_sync_steps" if !self.sync_ref_model => {
                Some("sync_ref_model = false".into())
            }
            "dynamic_beta_momentum" if !self.follows_margins() => Some("dynamic_beta = 0".into()),
            _ if !self.losses().into_iter().any(|(loss, _)| loss.reads(key)) => Some(self.losses_as_written()),
            _ => None,
        }
    }

    /// Settings that are both used and cannot be combined.
    pub(super) fn conflict(&self) -> Option<Conflict> {
        let losses = self.losses();
        let any = |holds: fn(&PairLossEntry) -> bool| losses.iter().any(|(loss, _)| holds(loss.entry()));
        let without_reference = losses.iter().any(|(loss, _)| !loss.reads_reference());
        let with = self.losses_as_written();
        if self.use_weighting && any(|entry| entry.couples_pairs) {
            let why = "it weighs pairs by themselves, and this loss is not a mean over pairs";
            return Some(Conflict { key: "use_weighting", with, why });
        }
        let reads_margin = |loss: &PairLoss| loss.entry().settings.contains(&"margin");
        if self.margin != 0.0 && losses.len() > 1 && !losses.iter().all(|(loss, _)| reads_margin(loss)) {
            let why = "not every loss of the mixture has a required margin, and all of them read the same pairs";
            return Some(Conflict { key: "margin", with, why });
        }
        if self.ld_alpha != 1.0 && (without_reference || any(|entry| entry.unpaired)) {
            let why =
                "it weighs log-ratios to the reference of two responses to one prompt by the shorter one's length";
            return Some(Conflict { key: "ld_alpha", with, why });
        }
        if self.dynamic_beta != 0.0 && (without_reference || any(|entry| entry.couples_pairs)) {
            let why =
                "beta follows the margin between log-ratios to the reference, in a loss that is a mean over pairs";
            return Some(Conflict { key: "dynamic_beta", with, why });
        }
        if self.dynamic_beta_filter < 1.0 && (without_reference || any(|entry| entry.couples_pairs)) {
            let why = "it draws pairs by the margin between log-ratios to the reference, for a loss that is a mean over pairs";
            return Some(Conflict { key: "dynamic_beta_filter", with, why });
        }
        if self.sync_ref_model && !losses.iter().any(|(loss, _)| loss.reads_reference()) {
            return Some(Conflict { key: "sync_ref_model", with, why: "the loss reads no reference" });
        }
        if self.sync_ref_model && self.reference_free {
            let why = "the reference's log-probs count as 0, so that it is not read";
            return Some(Conflict { key: "sync_ref_model", with: "reference_free".into(), why });
        }
        if self.takes(PairInput::Mismatched) && !self.drop_last {
            let why = "an epoch's last batch may be of a single pair, which has no other prompts for the KL";
            return Some(Conflict { key: "drop_last", with, why });
        }
        if self.takes(PairInput::Mismatched) && self.kto_desirable == 0.0 && self.kto_undesirable == 0.0 {
            let why = "no response would have a weight, so nothing would be learned";
            return Some(Conflict { key: "kto_undesirable", with: "kto_desirable = 0".into(), why });
        }
        None
    }
}
