//! What an iteration of a method is expected to cost, before it is made: tokens and FLOPs by one rule (docs/verdicts.md, FLOPs), every
//! response as long as the longest, every planned update made.

use duel_model::{Flops, TransformerConfig};
use duel_spec::{BudgetSettings, BudgetUnit, DpoSettings, KlPenalty, PairInput, RolloutSettings, TokenSpec};

/// The sizes of what an iteration reads with.
#[derive(Debug, Clone, Copy)]
pub struct ModelSizes<'a> {
    /// The policy's.
    pub config: &'a TransformerConfig,
    pub space: &'a TokenSpec,
    /// FLOPs per token of everything that scores responses.
    pub scorer: f64,
}

/// What an iteration is expected to use.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct IterationEstimate {
    /// Planned.
    pub updates: f64,
    /// Trained, sampled and scored.
    pub tokens: f64,
    pub flops: f64,
}

impl IterationEstimate {
    /// A step on a batch of so many train rows.
    pub fn of_pairs(dpo: &DpoSettings, rows: usize, sizes: ModelSizes<'_>) -> Self {
        let policy = Flops::policy(sizes.config);
        let columns = sizes.space.context() as f64;
        let trained = (2 * dpo.batch_size.min(rows)) as f64;
        // mismatched responses are read by policy and reference, those of a batch by a reference that follows the policy
        let mismatched = f64::from(dpo.takes(PairInput::Mismatched)) * 2.0 * trained;
        let scored = mismatched + f64::from(dpo.sync_ref_model) * trained;
        let logits = f64::from(dpo.use_weighting) * trained;
        let head = Flops::head(sizes.config).forward * logits;
        Self {
            updates: 1.0,
            tokens: (trained + scored) * columns,
            flops: (policy.forward * (3.0 * trained + scored) + head) * columns,
        }
    }

    /// A rollout and its updates, with so many value models of their own.
    pub fn of_rollout(shared: &RolloutSettings, critics: f64, sizes: ModelSizes<'_>) -> Self {
        let (policy, scalar) = (Flops::policy(sizes.config), Flops::scalar(sizes.config));
        let (columns, response_tokens) = (sizes.space.context() as f64, sizes.space.response_tokens as f64);
        let rows = shared.episodes as f64;
        let updates = shared.epochs as f64 * rows * columns;
        let (reads, update_reads) = (reads(shared), update_reads(shared));
        let sampled = rows * sampled_per_episode(shared);
        let scored = if sizes.scorer > 0.0 { sampled * columns } else { 0.0 };
        Self {
            updates: (shared.epochs * shared.minibatches) as f64,
            tokens: sampled * response_tokens
                + (reads + critics) * rows * columns
                + (1.0 + update_reads) * updates
                + scored,
            flops: policy.forward
                * (sampled * response_tokens + reads * rows * columns + (3.0 + update_reads) * updates)
                + sizes.scorer * sampled * columns
                + scalar.forward * critics * (rows * columns + 3.0 * updates),
        }
    }

    /// What it uses of a budget; `None` of a budget of seconds.
    pub fn of_budget(&self, unit: BudgetUnit) -> Option<f64> {
        match unit {
            BudgetUnit::Steps => Some(self.updates),
            BudgetUnit::Tokens => Some(self.tokens),
            BudgetUnit::Flops => Some(self.flops),
            BudgetUnit::None | BudgetUnit::Seconds => None,
        }
    }

    /// Iterations that a budget is expected to last for; `seconds` are those of one of them.
    pub fn iterations(&self, budget: BudgetSettings, seconds: f64) -> f64 {
        (budget.amount / self.of_budget(budget.unit).unwrap_or(seconds) * (1.0 - 1e-12)).ceil()
    }
}

/// Times that a rollout is read: log-probs of policy and reference, the logits of both where a KL is over the whole vocabulary, and
/// entropies.
pub fn reads(shared: &RolloutSettings) -> f64 {
    1.0 + f64::from(shared.beta > 0.0)
        + 2.0 * f64::from(shared.penalizes_full_kl(KlPenalty::Reward))
        + f64::from(shared.reads_entropies())
}

/// Times that the reference reads what an update trains on.
pub fn update_reads(shared: &RolloutSettings) -> f64 {
    f64::from(shared.penalizes_full_kl(KlPenalty::Loss))
}

/// Responses sampled for one that is trained on: with dynamic sampling, if half of the groups have no spread in each round.
pub fn sampled_per_episode(shared: &RolloutSettings) -> f64 {
    2.0 - 0.5f64.powi(shared.dynamic_sampling_rounds as i32)
}
