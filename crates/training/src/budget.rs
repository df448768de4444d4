//! The budget of a training: its iterations go on until it is used up.

use duel_spec::{BudgetSettings, BudgetUnit, Clocks};

/// Share of a budget that the first iteration is taken to use where only a clock will tell.
const FIRST_ITERATION: f64 = 0.05;

/// A budget, what is known of the training before it begins, and when it is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct BudgetSchedule {
    pub settings: BudgetSettings,
    /// Planned updates of an iteration.
    pub updates: u64,
    /// What an iteration is expected to use, in the unit of the budget; `None` where that is not known.
    pub expected: Option<f64>,
    /// Evaluations, evenly spread over the budget.
    pub evaluations: usize,
    /// Whether the last of them is made when the budget is used up.
    pub evaluates_end: bool,
}

impl BudgetSchedule {
    /// What is used of it after so many planned updates.
    pub fn used(&self, clocks: Clocks, planned: u64) -> f64 {
        match self.settings.unit {
            BudgetUnit::None => f64::INFINITY,
            BudgetUnit::Steps => planned as f64,
            BudgetUnit::Tokens => clocks.tokens as f64,
            BudgetUnit::Flops => clocks.flops,
            BudgetUnit::Seconds => clocks.wall_seconds,
        }
    }

    /// The share of it that this is.
    pub fn share(&self, used: f64) -> f64 {
        used / self.settings.amount
    }

    /// Iterations that what is left lasts for, at the mean cost of those that were made: 0 where it is used up.
    pub fn iterations_left(&self, iterations: u64, used: f64) -> u64 {
        let amount = self.settings.amount;
        let each = match iterations {
            0 => self.expected.unwrap_or(FIRST_ITERATION * amount),
            made => used / made as f64,
        };
        ((amount - used) / each * (1.0 - 1e-12)).ceil() as u64 // a negative number is 0
    }

    /// Whether an evaluation is due after an iteration before which `before` was used, and `used` now.
    pub fn is_evaluated(&self, before: f64, used: f64) -> bool {
        let last = if self.evaluates_end { self.evaluations } else { self.evaluations.saturating_sub(1) };
        let due = |used: f64| ((self.share(used) * self.evaluations as f64 + 1e-9).floor() as usize).min(last);
        due(used) > due(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(unit: BudgetUnit, amount: f64) -> BudgetSchedule {
        let settings = BudgetSettings { unit, amount };
        BudgetSchedule { settings, updates: 1, expected: None, evaluations: 4, evaluates_end: true }
    }

    #[test]
    fn each_unit_is_read_off_its_clock() {
        let clocks = Clocks { step: 3, tokens: 50, flops: 700.0, wall_seconds: 9.5 };
        for (unit, used) in [
            (BudgetUnit::Steps, 4.0),
            (BudgetUnit::Tokens, 50.0),
            (BudgetUnit::Flops, 700.0),
            (BudgetUnit::Seconds, 9.5),
        ] {
            assert_eq!(budget(unit, 100.0).used(clocks, 4), used, "{unit:?}");
        }
        assert_eq!(budget(BudgetUnit::Tokens, 200.0).share(50.0), 0.25);
    }

    #[test]
    fn what_is_left_lasts_for_iterations_of_the_mean_cost() {
        let budget = |expected| BudgetSchedule { expected, ..budget(BudgetUnit::Tokens, 100.0) };
        let left = |expected, iterations, used| budget(expected).iterations_left(iterations, used);
        assert_eq!([left(Some(10.0), 0, 0.0), left(Some(30.0), 0, 0.0), left(Some(900.0), 0, 0.0)], [10, 4, 1]);
        assert_eq!(left(None, 0, 0.0), 20, "the first is a twentieth, until it was made");
        assert_eq!([left(Some(10.0), 2, 50.0), left(Some(10.0), 3, 51.0)], [2, 3]);
        assert_eq!([left(None, 5, 100.0), left(None, 5, 130.0)], [0, 0]);
        assert_eq!(left(None, 7, 0.1 * 7.0), 993, "rounding makes no iteration more");
    }

    #[test]
    fn evaluations_are_evenly_spread_over_the_budget() {
        let due = |evaluates_end| -> Vec<f64> {
            let budget = BudgetSchedule { evaluates_end, ..budget(BudgetUnit::Tokens, 100.0) };
            let steps: Vec<f64> = (0..=11).map(|step| 10.0 * f64::from(step)).collect();
            steps.windows(2).filter(|pair| budget.is_evaluated(pair[0], pair[1])).map(|pair| pair[1]).collect()
        };
        assert_eq!(due(true), [30.0, 50.0, 80.0, 100.0]);
        assert_eq!(due(false), [30.0, 50.0, 80.0]);
        let budget = budget(BudgetUnit::Tokens, 100.0);
        assert!(budget.is_evaluated(0.0, 400.0) && !budget.is_evaluated(100.0, 400.0), "once for all that are due");
    }
}
