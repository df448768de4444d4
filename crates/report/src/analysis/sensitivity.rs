//! How much the settings matter: what varies among the points that were tried, and whether the best of it lies at an edge.

use crate::analysis::run::Run;
use crate::analysis::stats::mean;
use crate::analysis::tuning::{TrialResult, TuningResults};
use crate::format::nats;
use duel_spec::{Search, SearchDimension, number};
use std::collections::BTreeSet;
use toml::Value;

/// The settings in which an arm's points differ, and the values of each.
pub(crate) fn varied_settings(tried: &[&TrialResult]) -> Vec<(String, Vec<Value>)> {
    let names: BTreeSet<&String> = tried.iter().flat_map(|t| t.settings.keys()).collect();
    let values = |name: &String| {
        let mut values: Vec<Value> = vec![];
        for value in tried.iter().filter_map(|t| t.settings.get(name)) {
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

pub(crate) fn words(value: &Value) -> String {
    match (value.as_str(), number(value)) {
        (Some(text), _) => text.into(),
        (_, Some(number)) if number != 0.0 && number.abs() < 0.01 => format!("{number:e}"),
        _ => value.to_string(),
    }
}

/// An axis over the values that were tried: between the least and the largest number, in log where they were drawn so or
/// span a decade; in steps where there is a word among them.
pub(crate) fn axis_of(values: &[Value], drawn: Option<&SearchDimension>) -> SearchDimension {
    let numbers: Option<Vec<f64>> = values.iter().map(number).collect();
    match numbers.as_deref() {
        Some([low, .., high]) => SearchDimension {
            low: Some(Value::Float(*low)),
            high: Some(Value::Float(*high)),
            log: drawn.map_or(*low > 0.0 && high / low >= 10.0, |axis| axis.log),
            ..SearchDimension::default()
        },
        _ => SearchDimension { choices: values.to_vec(), ..SearchDimension::default() },
    }
}

/// What the worth of a point is, in words.
pub(crate) fn merit_label(tuning: &TuningResults, run: &Run) -> String {
    let what = if tuning.is_share { "η" } else { "gold gained" };
    format!("{what} within {}", nats(run.experiment.tuning.kl))
}

/// Settings whose best value lies at an end of what was tried, in words.
pub(crate) fn edges(run: &Run, tuning: &TuningResults) -> Vec<String> {
    let mut found = vec![];
    let (choose, tuned) = (run.experiment.tuning.choose, run.experiment.is_tuned());
    let seeds = if tuned { run.experiment.tuning_seeds() } else { run.experiment.seed_list() };
    for (name, arm) in &run.experiment.arms {
        let tried: Vec<&TrialResult> = tuning.tried.iter().filter(|t| t.arm == *name).collect();
        // where every point lacks a seed, those that they have must do
        let known = |t: &TrialResult| mean(&t.values(choose).into_iter().filter(|x| x.is_finite()).collect::<Vec<_>>());
        let ranked = tuning.ranked(name, &seeds, choose);
        let best = match ranked.first() {
            Some(first) if first.merit(choose).is_finite() => *first,
            _ => {
                let comparable = tried.iter().copied().filter(|t| known(t).is_finite());
                let Some(best) = comparable.max_by(|a, b| known(a).total_cmp(&known(b))) else { continue };
                best
            }
        };
        for (setting, values) in varied_settings(&tried) {
            let drawn = arm.search != Search::Grid;
            let (axis, table) = match (drawn, arm.space().get(&setting)) {
                (true, Some(axis)) => (axis.clone(), "space"),
                _ => (axis_of(&values, None), "grid"),
            };
            let (Some(value), true, true) = (best.settings.get(&setting), axis.choices.is_empty(), values.len() > 1)
            else {
                continue;
            };
            let margin = if drawn { EDGE } else { 1e-6 };
            let at = axis.share(value).unwrap_or(0.5);
            if at < margin || at > 1.0 - margin {
                let ends: Vec<String> = axis.ends().iter().map(words).collect();
                found.push(format!(
                    "arms.{name}.{table}.{setting}: the best has {}, at the edge of what was tried, {}",
                    words(value),
                    ends.join(" to ")
                ));
            }
        }
    }
    found
}

/// Share of an axis that counts as its edge.
const EDGE: f64 = 0.05;
