//! The budget of every arm's training, in place of a length of its own.

use serde::{Deserialize, Serialize};

/// What a budget counts: one of the clocks of a training ([`Clocks`](crate::Clocks)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BudgetUnit {
    /// There is no budget: each arm has its own length.
    None,
    /// Planned optimizer steps, those that are skipped included.
    Steps,
    /// Tokens trained on, sampled and scored.
    Tokens,
    Flops,
    /// Seconds of the training, without evaluation.
    Seconds,
}

/// The budget of every arm; `[budget]` in `defaults.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetSettings {
    pub unit: BudgetUnit,
    pub amount: f64,
}

impl BudgetSettings {
    /// Whether arms are trained until a budget is used up.
    pub fn is_set(&self) -> bool {
        self.unit != BudgetUnit::None
    }

    /// The unit in the experiment file.
    pub fn unit_name(&self) -> &'static str {
        match self.unit {
            BudgetUnit::None => "none",
            BudgetUnit::Steps => "steps",
            BudgetUnit::Tokens => "tokens",
            BudgetUnit::Flops => "flops",
            BudgetUnit::Seconds => "seconds",
        }
    }

    /// What a reader of the results must know of it.
    pub fn warning(&self) -> Option<&'static str> {
        (self.unit == BudgetUnit::Seconds).then_some(
            "budget.unit = \"seconds\": how far each arm is trained depends on the machine and on what else runs there, so that \
             another run has other numbers",
        )
    }
}
