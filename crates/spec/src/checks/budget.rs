//! A budget, and lengths of arms that it would contradict.

use crate::Result;
use crate::budget::{BudgetSettings, BudgetUnit};
use crate::defaults::default_tables;
use crate::document::Document;
use crate::experiment::Experiment;
use crate::values::same;

pub(super) fn check_budget(experiment: &Experiment, document: &Document) -> Result<()> {
    let BudgetSettings { unit, amount } = experiment.budget;
    let with = format!("budget.unit = \"{}\"", experiment.budget.unit_name());
    let refuse = |accepted: &str| Err(document.out_of_range("budget.amount", amount.to_string(), accepted));
    match unit {
        BudgetUnit::None if amount != 0.0 => return Err(document.clash("budget.amount", with, "it is not used")),
        BudgetUnit::None => return Ok(()),
        BudgetUnit::Steps if amount < 1.0 || amount.fract() != 0.0 => {
            return refuse("a whole number of optimizer steps for each arm, at least 1");
        }
        _ if amount == 0.0 => return refuse("a number above 0: what the training of each arm may use"),
        _ => {}
    }
    let (_, methods) = default_tables();
    for (name, arm) in &experiment.arms {
        for point in arm.representative_points() {
            let defaults = &methods[point.method.name()];
            for key in point.method.length_keys() {
                let table = match (arm.grid.contains_key(*key), arm.space.contains_key(*key)) {
                    (true, _) => "grid.",
                    (_, true) => "space.",
                    _ if arm
                        .settings
                        .get(*key)
                        .zip(defaults.get(*key))
                        .is_some_and(|(own, other)| !same(own, other)) =>
                    {
                        ""
                    }
                    _ => continue,
                };
                let why = "the budget says how long every arm is trained";
                return Err(document.clash(format!("arms.{name}.{table}{key}"), with, why));
            }
        }
    }
    Ok(())
}
