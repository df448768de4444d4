//! How much the settings matter: what was tried, as a table, as parallel coordinates and as slices; and whether the best of it
//! lies at an edge.

use crate::canvas::{MarkStyle, Plot, Scale, Series};
use crate::figures::{PANEL, colour};
use crate::format::{distinct, nats, si};
use crate::parallel::{Parallel, ParallelAxis, ParallelLine};
use crate::run::Run;
use crate::stats::{Estimate, mean};
use crate::tables::TextTable;
use crate::tuning::{TrialResult, TuningResults};
use duel_spec::{Search, SearchDimension, SelectionMetric, number};
use std::collections::BTreeSet;
use toml::Value;

/// Sizes in SVG pixels.
const SIZE: (u32, u32) = (760, 330);
/// Points from which on an arm's settings are worth a chart.
const FEWEST: usize = 3;

/// The settings in which an arm's points differ, and the values of each.
fn varied_settings(tried: &[&TrialResult]) -> Vec<(String, Vec<Value>)> {
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

fn words(value: &Value) -> String {
    match (value.as_str(), number(value)) {
        (Some(text), _) => text.into(),
        (_, Some(number)) if number != 0.0 && number.abs() < 0.01 => format!("{number:e}"),
        _ => value.to_string(),
    }
}

/// An axis over the values that were tried: between the least and the largest number, in log where they were drawn so or
/// span a decade; in steps where there is a word among them.
fn axis_of(values: &[Value], drawn: Option<&SearchDimension>) -> SearchDimension {
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
fn merit_label(tuning: &TuningResults, run: &Run) -> String {
    let what = if tuning.is_share { "η" } else { "gold gained" };
    format!("{what} within {}", nats(run.experiment.tuning.kl))
}

/// Charts by name, arm after arm.
#[derive(Debug, Default)]
pub(crate) struct Charts {
    /// Of all settings together.
    pub(crate) wholes: Vec<(String, Parallel)>,
    /// Of each by itself.
    pub(crate) slices: Vec<(String, Plot)>,
}

/// The charts of every arm that tried enough.
pub(crate) fn charts(run: &Run, tuning: &TuningResults) -> Charts {
    let Charts { mut wholes, mut slices } = Charts::default();
    for arm in run.arms() {
        let tried: Vec<&TrialResult> =
            tuning.tried.iter().filter(|t| t.arm == arm && t.merit(SelectionMetric::Gold).is_finite()).collect();
        let varied = varied_settings(&tried);
        if tried.len() < FEWEST || varied.is_empty() {
            continue;
        }
        wholes.push((format!("sensitivity-{arm}"), parallel_chart(run, tuning, arm, &tried, &varied)));
        for (name, values) in &varied {
            slices.push((format!("slice-{arm}-{name}"), slice(run, tuning, arm, &tried, name, values)));
        }
    }
    Charts { wholes, slices }
}

fn parallel_chart(
    run: &Run,
    tuning: &TuningResults,
    arm: &str,
    tried: &[&TrialResult],
    varied: &[(String, Vec<Value>)],
) -> Parallel {
    let mut ranked = tried.to_vec();
    ranked.sort_by(|a, b| a.merit(SelectionMetric::Gold).total_cmp(&b.merit(SelectionMetric::Gold)));
    let merits: Vec<f64> = ranked.iter().map(|t| t.merit(SelectionMetric::Gold)).collect();
    let (low, high) = (merits[0], merits[merits.len() - 1]);
    let share = |merit: f64| if high > low { (merit - low) / (high - low) } else { 0.5 };
    let axes: Vec<SearchDimension> =
        varied.iter().map(|(name, values)| axis_of(values, run.experiment.arms[arm].space().get(name))).collect();
    let upright = |((name, values), axis): (&(String, Vec<Value>), &SearchDimension)| ParallelAxis {
        name: name.clone(),
        ticks: ticks(values, axis),
    };
    let strand = |t: &&TrialResult| ParallelLine {
        at: (varied.iter().zip(&axes))
            .map(|((name, _), axis)| axis.share(t.settings.get(name)?))
            .chain([Some(share(t.merit(SelectionMetric::Gold)))])
            .collect(),
        strength: share(t.merit(SelectionMetric::Gold)),
    };
    let merit = ParallelAxis {
        name: merit_label(tuning, run),
        ticks: {
            let values = if high > low { vec![low, low / 2.0 + high / 2.0, high] } else { vec![low] };
            values.iter().map(|m| share(*m)).zip(distinct(&values)).collect()
        },
    };
    Parallel {
        size: SIZE,
        colour: colour(run, arm),
        axes: varied.iter().zip(&axes).map(upright).chain([merit]).collect(),
        strands: ranked.iter().map(strand).collect(),
    }
}

/// The values to write at an axis: those that have room.
fn ticks(values: &[Value], axis: &SearchDimension) -> Vec<(f64, String)> {
    let mut ticks: Vec<(f64, String)> = vec![];
    let ends = [0, values.len() - 1];
    let order = ends.into_iter().chain(1..values.len() - 1);
    for value in order.map(|place| &values[place]) {
        let Some(share) = axis.share(value) else { continue };
        if ticks.iter().all(|(other, _)| (other - share).abs() > ROOM) {
            ticks.push((share, words(value)));
        }
    }
    ticks
}

/// Share of an axis' height that a word takes.
const ROOM: f64 = 0.06;

fn slice(run: &Run, tuning: &TuningResults, arm: &str, tried: &[&TrialResult], name: &str, values: &[Value]) -> Plot {
    let axis = axis_of(values, run.experiment.arms[arm].space().get(name));
    let is_words = !axis.choices.is_empty();
    let x = |t: &TrialResult| {
        let value = t.settings.get(name)?;
        if is_words { values.iter().position(|v| v == value).map(|i| i as f64) } else { number(value) }
    };
    let of = |t: &&TrialResult| -> Vec<(f64, f64)> {
        let at = x(t);
        t.values(SelectionMetric::Gold).into_iter().filter_map(|worth| Some((at?, worth))).collect()
    };
    let centre = |t: &&TrialResult| Some((x(t)?, mean(&t.values(SelectionMetric::Gold))));
    let colour = colour(run, arm);
    let seeds = Series::new(MarkStyle::Dots { radius: 2.5 }, colour, tried.iter().flat_map(of).collect()).faint(0.35);
    let means = Series::new(MarkStyle::Rings { radius: 4.5 }, colour, tried.iter().filter_map(centre).collect());
    let series = vec![seeds.about("a seed"), means.about("mean")];
    Plot {
        x_scale: if axis.log { Scale::Log } else { Scale::Linear },
        x_ticks: is_words.then(|| (0..values.len()).map(|i| i as f64).collect()),
        x_words: if is_words { values.iter().map(words).collect() } else { vec![] },
        ..Plot::new(PANEL, format!("{arm}: {name}"), format!("{}, validation", merit_label(tuning, run)), series)
    }
}

/// Every point that was tried for a choice, the best of each arm first; empty where nothing was to be chosen.
pub(crate) fn table(run: &Run, tuning: &TuningResults) -> TextTable {
    let (choose, seeds) = (run.experiment.tuning.choose, run.experiment.tuning_seeds());
    let head =
        ["arm", "point", "", "seeds", &merit_label(tuning, run), "learned reward gained there", "FLOPs a training"];
    let mut rows = vec![];
    for arm in run.arms().into_iter().filter(|_| run.experiment.is_tuned()) {
        let ranked = tuning.ranked(arm, &seeds, choose);
        let best = |choose| tuning.ranked(arm, &seeds, choose).first().map(|t| t.label.clone());
        let (chosen, blind) = (best(choose), best(SelectionMetric::Proxy));
        let others = tuning.tried.iter().filter(|t| t.arm == arm && !ranked.iter().any(|r| r.label == t.label));
        for tried in ranked.iter().copied().chain(others) {
            let worths: Vec<_> = tried.seeds.values().flatten().collect();
            let say = |of: fn(&&crate::TrialScore) -> f64| {
                Estimate::of(&worths.iter().map(of).collect::<Vec<_>>()).map_or("–".into(), |e| format!("{e:.3}"))
            };
            let is = |label: &Option<String>| label.as_ref() == Some(&tried.label);
            let mut notes = vec![];
            notes.extend(is(&chosen).then_some("chosen"));
            notes.extend(
                (is(&blind) && choose == SelectionMetric::Gold).then_some("would be chosen by the learned reward"),
            );
            notes.extend((worths.len() < tried.seeds.len()).then_some("not finished"));
            notes.extend((tried.seeds.len() < seeds.len()).then_some("dropped"));
            rows.push(vec![
                arm.to_string(),
                tried.label.clone(),
                notes.join(", "),
                tried.seeds.len().to_string(),
                say(|w| w.gold),
                say(|w| w.proxy),
                si(mean(&worths.iter().map(|w| w.flops).collect::<Vec<_>>())),
            ]);
        }
    }
    TextTable { name: "tuning", head: head.map(String::from).to_vec(), rows }
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
