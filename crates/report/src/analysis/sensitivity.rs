//! Which settings vary among the points that were tried, and whether the best value is at an edge.

use crate::analysis::run::Run;
use crate::analysis::stats::mean;
use crate::analysis::tuning::{TrialResult, TuningResults};
use crate::format::nats;
use duel_spec::{Search, SearchDimension, number};
use std::collections::BTreeSet;
use toml::Value;

/// The settings in which an arm's points differ, and the values of each.
pub(crate) fn varied_settings(trials: &[&TrialResult]) -> Vec<(String, Vec<Value>)> {
    let names: BTreeSet<&String> = trials.iter().flat_map(|t| t.settings.keys()).collect();
    let values = |name: &String| {
        let mut values: Vec<Value> = vec![];
        for value in trials.iter().filter_map(|t| t.settings.get(name)) {
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        values.sort_by(|a, b| match (number(a), number(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => a.to_string().cmp(&b.to_string()),
        });
        values
    };
    names.into_iter().map(|name| (name.clone(), values(name))).filter(|(_, values)| values.len() > 1).collect()
}

pub(crate) fn value_label(value: &Value) -> String {
    match (value.as_str(), number(value)) {
        (Some(text), _) => text.into(),
        (_, Some(number)) if number != 0.0 && number.abs() < 0.01 => format!("{number:e}"),
        _ => value.to_string(),
    }
}

/// An axis over the values that were tried: from the smallest to the largest number, logarithmic where they were sampled so or
/// span a decade; categorical where one of them is not a number.
pub(crate) fn axis_of(values: &[Value], sampled: Option<&SearchDimension>) -> SearchDimension {
    let numbers: Option<Vec<f64>> = values.iter().map(number).collect();
    match numbers.as_deref() {
        Some([low, .., high]) => SearchDimension {
            low: Some(Value::Float(*low)),
            high: Some(Value::Float(*high)),
            log: sampled.map_or(*low > 0.0 && high / low >= 10.0, |axis| axis.log),
            ..SearchDimension::default()
        },
        _ => SearchDimension { choices: values.to_vec(), ..SearchDimension::default() },
    }
}

/// The name of the score of a point.
pub(crate) fn merit_label(tuning: &TuningResults, run: &Run) -> String {
    let what = if tuning.is_share { "η" } else { "gold gained" };
    format!("{what} within {}", nats(run.experiment.tuning.kl))
}

/// Warnings about settings whose best value is at an edge of the values that were tried.
pub(crate) fn edges(run: &Run, tuning: &TuningResults) -> Vec<String> {
    let mut warnings = vec![];
    let (choose, tuned) = (run.experiment.tuning.choose, run.experiment.is_tuned());
    let seeds = if tuned { run.experiment.tuning_seeds() } else { run.experiment.seed_list() };
    for (name, arm) in &run.experiment.arms {
        let trials: Vec<&TrialResult> = tuning.trials.iter().filter(|t| t.arm == *name).collect();
        // where every point lacks a seed, the seeds that it has are used
        let finite_mean =
            |t: &TrialResult| mean(&t.values(choose).into_iter().filter(|x| x.is_finite()).collect::<Vec<_>>());
        let ranked = tuning.ranked(name, &seeds, choose);
        let best = match ranked.first() {
            Some(first) if first.merit(choose).is_finite() => *first,
            _ => {
                let comparable = trials.iter().copied().filter(|t| finite_mean(t).is_finite());
                let Some(best) = comparable.max_by(|a, b| finite_mean(a).total_cmp(&finite_mean(b))) else { continue };
                best
            }
        };
        for (setting, values) in varied_settings(&trials) {
            let sampled = arm.search != Search::Grid;
            let (axis, table) = match (sampled, arm.space().get(&setting)) {
                (true, Some(axis)) => (axis.clone(), "space"),
                _ => (axis_of(&values, None), "grid"),
            };
            let (Some(value), true, true) = (best.settings.get(&setting), axis.choices.is_empty(), values.len() > 1)
            else {
                continue;
            };
            let margin = if sampled { EDGE_SHARE } else { 1e-6 };
            let share = axis.share(value).unwrap_or(0.5);
            if share < margin || share > 1.0 - margin {
                let ends: Vec<String> = axis.ends().iter().map(value_label).collect();
                warnings.push(format!(
                    "arms.{name}.{table}.{setting}: the best has {}, at the edge of what was tried, {}",
                    value_label(value),
                    ends.join(" to ")
                ));
            }
        }
    }
    warnings
}

/// Share of an axis that counts as its edge.
const EDGE_SHARE: f64 = 0.05;
