//! Figures along the trainings.

use crate::analysis::costs::{Clock, eval_curve, upstream_cost};
use crate::analysis::run::Run;
use crate::analysis::stats::{mean, range};
use crate::charts::axes::Scale;
use crate::charts::figure::{PANEL, WIDE, arm_color, point_mean};
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::charts::theme::GREY;
use duel_spec::metrics::{self, Metric};
use std::collections::BTreeMap;

/// Gold reward over training, mean over seeds with its interval, one line per point of the grid; the featured one opaque.
pub(crate) fn gold_curve(run: &Run, x_name: &str, clock: Clock) -> Plot {
    let mut series = Vec::new();
    for arm in run.arms() {
        let (color, name) = (arm_color(run, arm), arm.to_uppercase());
        let featured = run.featured(arm).map(|p| p.label.clone());
        for point in run.points_of(arm) {
            let upstream = upstream_cost(run, point);
            let evaluations = eval_curve(point, &upstream, clock, |m| m.test(metrics::GOLD));
            let line: Vec<(f64, f64)> = evaluations.iter().map(|(x, y)| (*x, y.mean)).collect();
            let description = format!("{name} {}", point.display_label());
            if featured.as_deref() == Some(&point.label) {
                let end = |sign: f64| -> Vec<(f64, f64)> {
                    evaluations.iter().map(|(x, y)| (*x, y.mean + sign * y.half_width.unwrap_or(0.0))).collect()
                };
                series.push(Series::band(color, &end(-1.0), &end(1.0)).described(format!("{description}, interval")));
                series.push(
                    Series::new(MarkStyle::Line { width: 2.5 }, color, line).named(name.clone()).described(description),
                );
            } else {
                series.push(
                    Series::new(MarkStyle::Line { width: 1.2 }, color, line).with_opacity(0.3).described(description),
                );
            }
        }
    }
    let ends: Vec<f64> = series.iter().flat_map(|s| &s.data).map(|p| p.0).collect();
    if let Some((_, gold)) = run.reference().and_then(|p| point_mean(p, metrics::KL, metrics::GOLD))
        && let Some([low, high]) = range(&ends)
    {
        let level = vec![(low, gold), (high, gold)];
        series.push(Series::new(MarkStyle::Dashed { width: 1.2 }, GREY, level).named("reference"));
    }
    Plot { x_scale: Scale::Log, ..Plot::new(PANEL, x_name, "gold reward", series) }
}

/// A training metric, mean over seeds; one line per point that has it, the featured one opaque.
pub(crate) fn training_plot(run: &Run, metric: Metric, y_name: &str) -> Option<Plot> {
    let mut series = vec![];
    for arm in run.arms() {
        let featured = run.featured(arm).map(|p| p.label.clone());
        for point in run.points_of(arm) {
            let Some(curve) = run.training_curve(point, metric) else { continue };
            let line = thin_points(curve.steps().collect());
            let is_featured = featured.as_deref() == Some(&point.label);
            let (width, opacity) = if is_featured { (2.2, 1.0) } else { (1.1, 0.35) };
            let description = format!("{} {}", arm.to_uppercase(), point.display_label());
            let line = Series::new(MarkStyle::Line { width }, arm_color(run, arm), line)
                .with_opacity(opacity)
                .described(description);
            series.push(if is_featured { Series { name: arm.to_uppercase(), ..line } } else { line });
        }
    }
    (!series.is_empty()).then(|| Plot::new(PANEL, "optimizer steps", y_name, series))
}

/// A line of at most `POINTS` points, each the mean of its neighbors.
fn thin_points(line: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    const POINTS: usize = 120;
    let group = line.len().div_ceil(POINTS).max(1);
    let center = |part: &[(f64, f64)]| {
        let (x, y): (Vec<f64>, Vec<f64>) = part.iter().copied().unzip();
        (mean(&x), mean(&y))
    };
    line.chunks(group).map(center).collect()
}

/// Log-ratios of held-out chosen and rejected responses during the training of each arm's featured point.
pub(crate) fn displacement(run: &Run) -> Option<Plot> {
    let mut series = vec![];
    for arm in run.arms() {
        let Some(point) = run.featured(arm) else { continue };
        for (metric, style, what) in [
            (metrics::LOG_RATIO_CHOSEN, MarkStyle::Line { width: 2.2 }, "chosen"),
            (metrics::LOG_RATIO_REJECTED, MarkStyle::Dashed { width: 1.8 }, "rejected"),
        ] {
            let evaluations =
                eval_curve(point, &BTreeMap::new(), |c| c.step as f64, |evaluation| evaluation.test(metric));
            if evaluations.is_empty() {
                continue;
            }
            let line = std::iter::once((0.0, 0.0)).chain(evaluations.into_iter().map(|(x, y)| (x, y.mean))).collect();
            series.push(Series::new(style, arm_color(run, arm), line).named(format!("{} {what}", arm.to_uppercase())));
        }
    }
    let y_name = "log π − log π_ref, nats per response";
    (!series.is_empty()).then(|| Plot::new(WIDE, "optimizer steps", y_name, series))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_thinned_to_means() {
        let line: Vec<(f64, f64)> = (0..300).map(|i| (f64::from(i), 2.0)).collect();
        let thin = thin_points(line);
        assert!(thin.len() == 100 && thin[0] == (1.0, 2.0) && thin[99] == (298.0, 2.0));
        assert_eq!(thin_points(vec![(1.0, 2.0)]), [(1.0, 2.0)]);
    }
}
