//! Figures of the arms against each other at one KL.

use crate::analysis::frontier::{common_kl, gain_at};
use crate::analysis::head_to_head::HeadToHead;
use crate::analysis::run::Run;
use crate::analysis::stats::Estimate;
use crate::charts::figure::{PANEL, WIDE, arm_color};
use crate::charts::heatmap::Heatmap;
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::charts::theme::MUTED;
use crate::format::{fixed, nats};
use duel_spec::REFERENCE;

/// The gain at one KL, one row per arm: seeds, mean and interval.
pub(crate) fn stability(run: &Run) -> Option<Plot> {
    let (arms, kl) = (run.arms(), common_kl(run));
    let (mut series, mut labels, mut is_share) = (vec![], vec![], false);
    for (row, arm) in arms.iter().enumerate() {
        let (color, name, y) = (arm_color(run, arm), arm.to_uppercase(), row as f64);
        labels.push(name.clone());
        let gains = run.experiment.seed_list().into_iter().filter_map(|seed| gain_at(run, arm, seed, kl));
        let values: Vec<f64> = gains
            .map(|(gain, share)| {
                is_share |= share.is_some();
                share.unwrap_or(gain)
            })
            .collect();
        let Some(estimate) = Estimate::of(&values) else { continue };
        let seeds = values.iter().map(|&x| (x, y)).collect();
        series.push(
            Series::new(MarkStyle::Dots { radius: 4.0 }, color, seeds)
                .with_opacity(0.4)
                .described(format!("{name}, one seed")),
        );
        if let Some(half) = estimate.half_width {
            let ends = vec![(estimate.mean - half, y), (estimate.mean + half, y)];
            series.push(
                Series::new(MarkStyle::Whiskers { width: 2.5 }, color, ends).described(format!("{name}, interval")),
            );
        }
        series.push(
            Series::new(MarkStyle::Rings { radius: 6.0 }, color, vec![(estimate.mean, y)])
                .described(format!("{name}, mean")),
        );
    }
    let x_name = if is_share { "share of the optimum's gain, η," } else { "gain in gold" };
    let has_data = !series.is_empty();
    let plot = Plot::new((PANEL.0, 90 + 34 * arms.len() as u32), format!("{x_name} at {}", nats(kl)), "", series);
    has_data.then_some(Plot { y_categories: labels, ..plot })
}

/// Bradley-Terry strengths of the arms over the reference at one KL, the strongest on top: means and intervals.
pub(crate) fn strength_forest(run: &Run, policies: &HeadToHead) -> Option<Plot> {
    let strengths = policies.strengths();
    let (mut series, mut labels) = (vec![], vec![]);
    for (row, (arm, strength)) in strengths.iter().enumerate() {
        let (name, y, mean) = (policies.names[*arm].to_uppercase(), row as f64, strength.estimate.mean);
        let color = arm_color(run, policies.names[*arm]);
        if let Some([low, high]) = strength.interval {
            series.push(
                Series::new(MarkStyle::Whiskers { width: 2.5 }, color, vec![(low, y), (high, y)])
                    .described(format!("{name}, interval")),
            );
        }
        series.push(
            Series::new(MarkStyle::Rings { radius: 6.0 }, color, vec![(mean, y)]).described(format!("{name}, mean")),
        );
        // what has no place on the axis
        labels.push(if mean.is_finite() { name } else { format!("{name} ({})", fixed(mean, 0)) });
    }
    let rows = labels.len();
    let reference = vec![(0.0, -0.5), (0.0, rows as f64 - 0.5)];
    series.push(Series::new(MarkStyle::Dashed { width: 1.5 }, MUTED, reference).described("the reference"));
    let x_name = format!("log-odds of a win over the reference at {}", nats(policies.kl));
    let plot = Plot::new((PANEL.0, 90 + 34 * rows as u32), x_name, "", series);
    (rows > 0).then_some(Plot { y_categories: labels, ..plot })
}

/// Win rates between all arms and the reference at one KL; mixtures of finished policies.
pub(crate) fn win_rates(policies: &HeadToHead) -> Heatmap {
    let names = &policies.names;
    let cell = |a: usize, b: usize| match policies.win_rate(a, b, false).filter(|_| a != b) {
        Some(rate) => (Some(rate.estimate.mean), rate.to_string()),
        None => (None, "–".into()),
    };
    let cells: Vec<Vec<(Option<f64>, String)>> =
        (0..names.len()).map(|a| (0..names.len()).map(|b| cell(a, b)).collect()).collect();
    let (shares, labels) = cells.into_iter().map(|row| row.into_iter().unzip()).unzip();
    let width = 100 + 95 * names.len() as u32;
    let size = (width.clamp(PANEL.0, WIDE.0), 50 + 40 * names.len() as u32);
    let names =
        names.iter().map(|name| if *name == REFERENCE { "reference".into() } else { name.to_uppercase() }).collect();
    Heatmap { size, names, shares, labels }
}
