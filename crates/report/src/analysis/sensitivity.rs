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

/// The best score that is expected of `1..=n` settings drawn at random, with replacement, from the `n` that were tried: Dodge et al. 2019,
/// §3.1. A setting whose training failed has gained nothing.
pub(crate) fn expected_best(scores: &[f64]) -> Vec<f64> {
    let mut scores: Vec<f64> = scores.iter().map(|&x| if x.is_finite() { x } else { 0.0 }).collect();
    scores.sort_by(f64::total_cmp);
    let n = scores.len() as f64;
    let best_of = |draws: usize| {
        let none_above = |rank: usize| (rank as f64 / n).powi(draws as i32);
        let is_best = |rank: usize| none_above(rank + 1) - none_above(rank);
        scores.iter().enumerate().map(|(rank, score)| score * is_best(rank)).sum()
    };
    (1..=scores.len()).map(best_of).collect()
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
            let (Some(value), true) = (best.settings.get(&setting), axis.choices.is_empty()) else { continue };
            let margin = if sampled { EDGE_SHARE } else { 1e-6 };
            let share = axis.share(value).unwrap_or(0.5);
            // nothing lies below zero
            let is_zero = share < margin && number(value) == Some(0.0);
            if !is_zero && (share < margin || share > 1.0 - margin) {
                let ends: Vec<String> = axis.ends().iter().map(value_label).collect();
                let [end, further] = if share < margin { ["lower", "smaller"] } else { ["upper", "larger"] };
                warnings.push(format!(
                    "arms.{name}.{table}.{setting}: the best value by what is gained within {}, {}, is at the {end} end of what was tried ({}); a {further} \
                     one may be better",
                    nats(run.experiment.tuning.kl),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of scores 1, 2 and 6: a mean of 3, then (1 · 1 + 3 · 2 + 5 · 6)/9, then (1 + 7 · 2 + 19 · 6)/27.
    #[test]
    fn the_best_of_random_settings_by_hand() {
        let close = |actual: Vec<f64>, expected: &[f64]| {
            assert!(actual.len() == expected.len(), "{actual:?}");
            assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{actual:?}, not {expected:?}");
        };
        close(expected_best(&[6.0, 1.0, 2.0]), &[3.0, 37.0 / 9.0, 129.0 / 27.0]);
        close(expected_best(&[f64::NEG_INFINITY, 4.0]), &[2.0, 3.0]);
        close(expected_best(&[]), &[]);
    }
    use crate::analysis::hand_made_run::HandMadeRun;
    use crate::analysis::tuning::TrialScore;
    use std::collections::BTreeMap;

    /// A trial of arm `a` with settings in TOML and the gold of each seed; `None` where its training failed.
    fn trial(settings: &str, seeds: &[(u64, Option<f64>)]) -> TrialResult {
        let score = |gold: f64| TrialScore { gold, proxy: -gold, flops: 1.0 };
        TrialResult {
            arm: "a".into(),
            label: settings.into(),
            settings: toml::from_str(settings).expect("settings"),
            seeds: seeds.iter().map(|&(seed, gold)| (seed, gold.map(score))).collect(),
        }
    }

    fn edges_of(experiment: &str, trials: Vec<TrialResult>) -> Vec<String> {
        let run =
            HandMadeRun::new(&format!("name = 'edges'\nseeds = 2\n[arms.a]\nmethod = 'dpo'\n{experiment}")).finish();
        edges(&run, &TuningResults { trials, reward_model: BTreeMap::new(), is_share: false })
    }

    #[test]
    fn settings_that_vary_are_listed_with_their_values_in_order() {
        let trials =
            ["b = 10\nc = 'y'\nd = 1", "b = 9\nc = 'x'\nd = 1", "b = 9\ne = 2", "b = 0.5"].map(|t| trial(t, &[]));
        let varied = varied_settings(&trials.iter().collect::<Vec<_>>());
        let text = |x: &str| Value::String(x.into());
        let expected = [
            ("b".to_string(), vec![Value::Float(0.5), Value::Integer(9), Value::Integer(10)]),
            ("c".to_string(), vec![text("x"), text("y")]),
        ];
        assert_eq!(varied, expected);
        let labels = [
            Value::Float(0.005),
            Value::Float(-0.005),
            Value::Float(0.01),
            Value::Float(0.0),
            Value::Integer(3),
            text("x"),
        ];
        assert_eq!(labels.map(|value| value_label(&value)), ["5e-3", "-5e-3", "0.01", "0.0", "3", "x"]);
    }

    #[test]
    fn an_axis_over_a_decade_of_positive_numbers_is_logarithmic() {
        let axis = |low: f64, high: f64, sampled: Option<&SearchDimension>| {
            let axis = axis_of(&[low, 0.3, high].map(Value::Float), sampled);
            (axis.ends(), axis.log)
        };
        let ends = |low: f64, high: f64| vec![Value::Float(low), Value::Float(high)];
        assert_eq!(axis(0.125, 1.25, None), (ends(0.125, 1.25), true));
        assert_eq!(axis(0.125, 1.0, None), (ends(0.125, 1.0), false));
        assert_eq!([axis(0.0, 1.0, None).1, axis(-1.0, 20.0, None).1], [false; 2]);
        for log in [true, false] {
            assert_eq!(axis(0.1, 5.0, Some(&SearchDimension { log, ..SearchDimension::default() })).1, log);
        }
        let words = ["x", "y"].map(|word| Value::String(word.into()));
        let categories = axis_of(&words, None);
        assert_eq!((categories.ends(), categories.low.is_none()), (words.to_vec(), true));
        let both = [Value::Float(0.1), Value::Float(0.2)];
        assert_eq!(axis_of(&both, None).ends(), both);
    }

    #[test]
    fn a_score_is_named_by_its_unit_and_distance() {
        let run = HandMadeRun::new("name = 'scores'\ntuning.kl = 1.5\n[arms.a]\nmethod = 'dpo'").finish();
        let label = |is_share| merit_label(&TuningResults { is_share, ..TuningResults::default() }, &run);
        assert_eq!([label(true), label(false)], ["η within 1.5 nats", "gold gained within 1.5 nats"]);
    }

    #[test]
    fn the_edge_of_a_grid_is_its_first_and_last_number() {
        let best_at = |beta: f64| {
            let trials = [0.1, 0.2, 0.4].map(|b| {
                let gold = Some(if b == beta { 2.0 } else { 1.0 });
                trial(&format!("beta = {b}\nloss = '{}'", if b < 0.3 { "dpo" } else { "ipo" }), &[(0, gold), (1, gold)])
            });
            edges_of("grid.beta = [0.1, 0.2, 0.4]", trials.to_vec())
        };
        let smallest = "arms.a.grid.beta: the best value by what is gained within 1 nat, 0.1, is at the lower end of what was tried (0.1 to 0.4); a smaller one may be better";
        let largest = "arms.a.grid.beta: the best value by what is gained within 1 nat, 0.4, is at the upper end of what was tried (0.1 to 0.4); a larger one may be better";
        assert_eq!([best_at(0.1), best_at(0.2), best_at(0.4)], [vec![smallest], vec![], vec![largest]]);
    }

    /// Linear from 0 to 1, by random search on the seeds 100 and 101 of the tuning; a trial on one of them is not complete.
    #[test]
    fn the_edge_of_a_search_is_a_twentieth_of_the_axis() {
        let best_at = |x: f64| {
            let score = |gold: f64| [(100, Some(gold)), (101, Some(gold))];
            let trials = vec![
                trial("nll_coef = 0.5", &score(1.0)),
                trial(&format!("nll_coef = {x:?}"), &score(2.0)),
                trial("nll_coef = 0.4", &[(100, Some(3.0))]),
            ];
            let space = "search = 'random'\nspace.nll_coef = { low = 0.0, high = 1.0 }\n[tuning]\nconfigurations = 3\nseeds = 2\nseed = 100";
            edges_of(space, trials)
        };
        let warning = |x: &str, end: &str, further: &str| {
            vec![format!(
                "arms.a.space.nll_coef: the best value by what is gained within 1 nat, {x}, is at the {end} end of what was tried (0.0 to 1.0); a {further} one may be better"
            )]
        };
        assert_eq!(
            [best_at(0.04), best_at(0.96)],
            [warning("0.04", "lower", "smaller"), warning("0.96", "upper", "larger")]
        );
        assert_eq!([best_at(0.05), best_at(0.06), best_at(0.94), best_at(0.95)], [const { Vec::<String>::new() }; 4]);
    }

    /// Where no point has a score at every seed, the best is that of the highest mean over the seeds that it has.
    #[test]
    fn points_that_lack_seeds_are_compared_by_those_that_they_have() {
        let warnings_of = |golds: [[Option<f64>; 2]; 3]| {
            let trials = [0.1, 0.2, 0.4]
                .iter()
                .zip(golds)
                .map(|(beta, [a, b])| trial(&format!("beta = {beta}"), &[(0, a), (1, b)]));
            edges_of("grid.beta = [0.1, 0.2, 0.4]", trials.collect()).len()
        };
        assert_eq!(warnings_of([[Some(1.0), None], [None, Some(3.0)], [Some(2.0), None]]), 0);
        assert_eq!(warnings_of([[Some(1.0), None], [None, Some(2.0)], [Some(3.0), None]]), 1);
        assert_eq!(warnings_of([[None, None], [None, None], [None, None]]), 0);
        // one that has all seeds is before those that do not
        assert_eq!(warnings_of([[Some(9.0), None], [Some(1.0), Some(1.0)], [Some(9.0), None]]), 0);
    }
}
