//! Figures of the reward model: its accuracy on pairs, and whether it is perfectly calibrated.

use crate::analysis::calibration::pooled;
use crate::analysis::points::ReliabilityBin;
use crate::analysis::run::Run;
use crate::charts::figure::PANEL;
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::charts::theme::{GREY, INK, palette_color};
use duel_spec::metrics::{self, Metric};
use plotters::style::RGBColor;

/// The reward model's pair accuracy of each seed, with the Bayes accuracy as the ceiling.
pub(crate) fn pair_accuracy(run: &Run) -> Option<Plot> {
    let rows: [(&str, Metric, RGBColor, MarkStyle); 3] = [
        ("train prompts", metrics::PAIR_ACCURACY_TRAIN, GREY, MarkStyle::Dots { radius: 4.0 }),
        ("validation", metrics::PAIR_ACCURACY_VALIDATION, palette_color(4), MarkStyle::Dots { radius: 4.0 }),
        ("test", metrics::PAIR_ACCURACY_TEST, palette_color(0), MarkStyle::Dots { radius: 5.0 }),
    ];
    let numbered = |values: Vec<f64>| values.into_iter().enumerate().map(|(i, v)| (i as f64, v)).collect::<Vec<_>>();
    let ceiling = numbered(run.shared_metric("pairs", metrics::BAYES_ACCURACY));
    if ceiling.is_empty() {
        return None;
    }
    let ticks: Vec<f64> = ceiling.iter().map(|p| p.0).collect();
    let ceiling_line = match &ceiling[..] {
        [only] => vec![(only.0 - 0.4, only.1), (only.0 + 0.4, only.1)],
        several => several.to_vec(),
    };
    let mut series = vec![
        Series::new(MarkStyle::Dashed { width: 1.5 }, INK, ceiling_line).with_opacity(0.8).named("ceiling (test)"),
    ];
    for (name, metric, color, style) in rows {
        series.push(Series::new(style, color, numbered(run.shared_metric("rm", metric))).named(name));
    }
    let first = run.experiment.seed;
    let x_name = format!("seed (first: {first})");
    Some(Plot { x_ticks: Some(ticks), ..Plot::new(PANEL, x_name, "pair accuracy of the reward model", series) })
}

/// The calibration curve: all seeds pooled, and each seed.
pub(crate) fn calibration_curve(run: &Run) -> Option<Plot> {
    let pooled = pooled(run);
    if pooled.is_empty() {
        return None;
    }
    let coordinates = |bin: &ReliabilityBin| (bin.predicted, bin.observed);
    let seed_bins = run
        .calibration
        .values()
        .flat_map(|seeds| seeds.values())
        .filter(|bin| bin.pairs > 0.0)
        .map(coordinates)
        .collect();
    let color = palette_color(0);
    let pooled_bins: Vec<_> = pooled.iter().map(coordinates).collect();
    let line = vec![(0.5, 0.5), (1.0, 1.0)];
    let series = vec![
        Series::new(MarkStyle::Dashed { width: 1.5 }, INK, line).with_opacity(0.8).named("perfectly calibrated"),
        Series::new(MarkStyle::Dots { radius: 2.5 }, GREY, seed_bins).with_opacity(0.5).named("one seed"),
        Series::new(MarkStyle::Line { width: 2.0 }, color, pooled_bins.clone()),
        Series::new(MarkStyle::Rings { radius: 5.0 }, color, pooled_bins).named("all seeds"),
    ];
    let x_name = "predicted probability of being chosen";
    Some(Plot::new(PANEL, x_name, "observed share chosen", series))
}
