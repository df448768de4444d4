//! How long a cell is trained, and when it is evaluated on the way: its arm's own length, or the experiment's budget.

use crate::iteration_estimate::IterationEstimate;
use duel_spec::{BudgetSettings, CheckpointSelection, CommonSettings};
use duel_training::{BudgetSchedule, TrainSchedule, curve_steps};

/// The length of a training.
#[derive(Debug)]
pub struct TrainingLength {
    iterations: u64,
    /// The iterations after which it is evaluated.
    points: Vec<u64>,
    budget: Option<BudgetSchedule>,
    /// Planned updates of an iteration.
    updates: u64,
}

impl TrainingLength {
    /// `iterations` of a training without a budget; `each` is what one of any training is expected to cost.
    pub fn new(
        common: &CommonSettings,
        iterations: u64,
        each: IterationEstimate,
        budget: BudgetSettings,
        curve_points: usize,
    ) -> Self {
        let updates = each.updates as u64;
        let budget = budget.is_set().then(|| BudgetSchedule {
            settings: budget,
            updates,
            expected: each.of_budget(budget.unit),
            evaluations: curve_points,
            evaluates_end: common.keep != CheckpointSelection::Last,
        });
        let points = if budget.is_some() { vec![] } else { points(common, iterations, curve_points) };
        let iterations = budget.map_or(iterations, |budget| budget.iterations_left(0, 0.0));
        Self { iterations, points, budget, updates }
    }

    /// For the training.
    pub fn schedule(&self) -> TrainSchedule<'_> {
        match self.budget {
            Some(budget) => TrainSchedule::Budget(budget),
            None => TrainSchedule::Iterations { iterations: self.iterations, eval_at: &self.points },
        }
    }

    /// Planned updates, of a budget as expected before it is trained.
    pub fn planned_updates(&self) -> u64 {
        self.iterations.saturating_mul(self.updates)
    }
}

/// When a training is evaluated. Its end is evaluated in full by the caller, and is included here only if policies are compared
/// with each other.
fn points(common: &CommonSettings, iterations: u64, points: usize) -> Vec<u64> {
    let mut steps = curve_steps(iterations, points);
    if common.keep == CheckpointSelection::Last {
        steps.pop();
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::{BudgetUnit, PpoSettings};

    fn common(keep: CheckpointSelection) -> CommonSettings {
        CommonSettings { keep, ..PpoSettings::defaults().shared.common }
    }

    #[test]
    fn the_end_is_a_point_only_where_policies_are_compared() {
        assert_eq!(points(&common(CheckpointSelection::Last), 8, 4), [2, 4, 6]);
        for keep in [CheckpointSelection::Gold, CheckpointSelection::Proxy, CheckpointSelection::Loss] {
            assert_eq!(points(&common(keep), 8, 4), [2, 4, 6, 8]);
        }
    }

    #[test]
    fn a_budget_takes_the_place_of_a_length() {
        let each = IterationEstimate { updates: 16.0, tokens: 1000.0, flops: 5e6 };
        let of = |unit, amount| {
            let settings = BudgetSettings { unit, amount };
            TrainingLength::new(&common(CheckpointSelection::Last), 80, each, settings, 4)
        };
        let own = of(BudgetUnit::None, 0.0);
        assert_eq!(own.planned_updates(), 80 * 16);
        assert!(matches!(own.schedule(), TrainSchedule::Iterations { iterations: 80, eval_at: [20, 40, 60] }));
        for (unit, amount, iterations) in [
            (BudgetUnit::Steps, 160.0, 10),
            (BudgetUnit::Steps, 161.0, 11),
            (BudgetUnit::Tokens, 2500.0, 3),
            (BudgetUnit::Flops, 1e6, 1),
            (BudgetUnit::Seconds, 60.0, 20),
        ] {
            let length = of(unit, amount);
            assert_eq!(length.planned_updates(), iterations * 16, "{unit:?}");
            assert!(matches!(length.schedule(), TrainSchedule::Budget(budget) if budget.updates == 16));
        }
    }
}
