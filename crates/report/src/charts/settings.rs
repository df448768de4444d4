//! Figures of the settings that were tried: parallel coordinates of an arm, and a slice for each setting.

use crate::analysis::run::Run;
use crate::analysis::sensitivity::{axis_of, expected_best, merit_label, value_label, varied_settings};
use crate::analysis::stats::mean;
use crate::analysis::tuning::{TrialResult, TuningResults};
use crate::charts::axes::Scale;
use crate::charts::figure::{Figure, PANEL, WIDE, arm_color};
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::output::AnyChart;
use crate::charts::parallel::{Parallel, ParallelAxis, ParallelLine};
use crate::charts::plot::Plot;
use crate::format::distinct;
use duel_spec::{SearchDimension, SelectionMetric, number};
use toml::Value;

/// Sizes in SVG pixels.
const SIZE: (u32, u32) = (760, 330);

/// Fewest points of an arm for a chart of its settings.
const MIN_POINTS: usize = 3;

/// The figures of every arm that tried enough: of all settings together, then of each by itself.
pub(crate) fn setting_charts(run: &Run, tuning: &TuningResults) -> Vec<Figure> {
    let (mut together, mut slices, mut expected) = (vec![], vec![], vec![]);
    for arm in run.arms() {
        let trials: Vec<&TrialResult> =
            tuning.trials.iter().filter(|t| t.arm == arm && t.merit(SelectionMetric::Gold).is_finite()).collect();
        let varied = varied_settings(&trials);
        if trials.len() < MIN_POINTS || varied.is_empty() {
            continue;
        }
        let merits: Vec<f64> =
            tuning.trials.iter().filter(|t| t.arm == arm).map(|t| t.merit(SelectionMetric::Gold)).collect();
        let best = (1..).map(f64::from).zip(expected_best(&merits)).collect();
        expected.push(Series::new(MarkStyle::Line { width: 2.0 }, arm_color(run, arm), best).named(arm.to_uppercase()));
        let name = format!("sensitivity-{arm}");
        together.push(Figure {
            alt: format!("{name}: every point over its settings and its score"),
            name,
            group: "sensitivity",
            chart: AnyChart::Parallel(parallel_chart(run, tuning, arm, &trials, &varied)),
        });
        for (setting, values) in &varied {
            let name = format!("slice-{arm}-{setting}");
            slices.push(Figure {
                alt: format!("{name}: score over one setting"),
                name,
                group: "slices",
                chart: AnyChart::Plot(slice(run, tuning, arm, &trials, setting, values)),
            });
        }
    }
    let expected = (!expected.is_empty()).then(|| Figure {
        name: "expected-best".into(),
        group: "sensitivity",
        alt: "The best score that is expected of so many settings drawn at random from those that were tried".into(),
        chart: AnyChart::Plot(Plot::new(WIDE, "settings tried", merit_label(tuning, run), expected)),
    });
    expected.into_iter().chain(together).chain(slices).collect()
}

fn parallel_chart(
    run: &Run,
    tuning: &TuningResults,
    arm: &str,
    trials: &[&TrialResult],
    varied: &[(String, Vec<Value>)],
) -> Parallel {
    let mut ranked = trials.to_vec();
    ranked.sort_by(|a, b| a.merit(SelectionMetric::Gold).total_cmp(&b.merit(SelectionMetric::Gold)));
    let merits: Vec<f64> = ranked.iter().map(|t| t.merit(SelectionMetric::Gold)).collect();
    let (low, high) = (merits[0], merits[merits.len() - 1]);
    let share = |merit: f64| if high > low { (merit - low) / (high - low) } else { 0.5 };
    let axes: Vec<SearchDimension> =
        varied.iter().map(|(name, values)| axis_of(values, run.experiment.arms[arm].space().get(name))).collect();
    let axis_with_ticks = |((name, values), axis): (&(String, Vec<Value>), &SearchDimension)| ParallelAxis {
        name: name.clone(),
        ticks: ticks(values, axis),
    };
    let line_of = |t: &&TrialResult| ParallelLine {
        positions: (varied.iter().zip(&axes))
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
        color: arm_color(run, arm),
        axes: varied.iter().zip(&axes).map(axis_with_ticks).chain([merit]).collect(),
        lines: ranked.iter().map(line_of).collect(),
    }
}

/// The labels of an axis: those that do not overlap.
fn ticks(values: &[Value], axis: &SearchDimension) -> Vec<(f64, String)> {
    let mut ticks: Vec<(f64, String)> = vec![];
    let ends = [0, values.len() - 1];
    let by_priority = ends.into_iter().chain(1..values.len() - 1);
    for value in by_priority.map(|index| &values[index]) {
        let Some(share) = axis.share(value) else { continue };
        if ticks.iter().all(|(other, _)| (other - share).abs() > LABEL_HEIGHT) {
            ticks.push((share, value_label(value)));
        }
    }
    ticks
}

/// Share of an axis' height that a label takes.
const LABEL_HEIGHT: f64 = 0.06;

fn slice(run: &Run, tuning: &TuningResults, arm: &str, trials: &[&TrialResult], name: &str, values: &[Value]) -> Plot {
    let axis = axis_of(values, run.experiment.arms[arm].space().get(name));
    let is_categorical = !axis.choices.is_empty();
    let x = |t: &TrialResult| {
        let value = t.settings.get(name)?;
        if is_categorical { values.iter().position(|v| v == value).map(|i| i as f64) } else { number(value) }
    };
    let seed_points = |t: &&TrialResult| -> Vec<(f64, f64)> {
        let x_value = x(t);
        t.values(SelectionMetric::Gold).into_iter().filter_map(|score| Some((x_value?, score))).collect()
    };
    let center = |t: &&TrialResult| Some((x(t)?, mean(&t.values(SelectionMetric::Gold))));
    let color = arm_color(run, arm);
    let seeds = Series::new(MarkStyle::Dots { radius: 2.5 }, color, trials.iter().flat_map(seed_points).collect())
        .with_opacity(0.35);
    let means = Series::new(MarkStyle::Rings { radius: 4.5 }, color, trials.iter().filter_map(center).collect());
    let series = vec![seeds.described("one seed"), means.described("mean")];
    Plot {
        x_scale: if axis.log { Scale::Log } else { Scale::Linear },
        x_ticks: is_categorical.then(|| (0..values.len()).map(|i| i as f64).collect()),
        x_categories: if is_categorical { values.iter().map(value_label).collect() } else { vec![] },
        ..Plot::new(PANEL, format!("{arm}: {name}"), format!("{}, validation", merit_label(tuning, run)), series)
    }
}
