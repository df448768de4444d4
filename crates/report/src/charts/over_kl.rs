//! Figures over KL: the frontier, gold beside the learned reward, and properties of the responses.

use crate::analysis::best_of_n::{BEST_OF_N, origin};
use crate::analysis::frontier;
use crate::analysis::points::MeasuredPoint;
use crate::analysis::run::Run;
use crate::analysis::stats::mean;
use crate::charts::figure::{KL_AXIS, PANEL, WIDE, arm_color, gold_axis, point_mean, point_means, seed_points};
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::charts::theme::{GREY, IDEAL, INK, palette_color};
use duel_spec::metrics::{self, Metric};
use plotters::style::RGBColor;

/// Points of all arms beyond which they have no labels.
const MAX_LABELLED_POINTS: usize = 12;

/// Gold reward over KL: each arm's points, seeds and frontier with its interval, the theoretical curves, and the reference.
pub(crate) fn frontier_plot(run: &Run, size: (u32, u32)) -> Plot {
    let mut series = Vec::new();
    let kl_gold = |p: &MeasuredPoint| point_mean(p, metrics::KL, metrics::GOLD);
    let largest_kl = run
        .arms()
        .iter()
        .flat_map(|arm| run.points_of(arm))
        .flat_map(|p| p.final_test(metrics::KL))
        .fold(0.0, f64::max);
    let theoretical = [
        ("optimum", "optimum", INK, MarkStyle::Line { width: 2.0 }),
        ("ppo-ideal", "PPO-ideal", IDEAL, MarkStyle::Dashed { width: 2.0 }),
        (BEST_OF_N, "best of N", GREY, MarkStyle::Dashed { width: 1.5 }),
    ];
    for (arm, name, color, style) in theoretical {
        // from the reference, or from a single response on the prompts of best-of-N, which is one of its points
        let start = origin(run, arm).filter(|point| point.arm != arm);
        let mut curve: Vec<(f64, f64)> = start.into_iter().chain(run.points_of(arm)).filter_map(kl_gold).collect();
        if curve.len() < 2 {
            continue;
        }
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        let inside = curve.iter().filter(|p| p.0 <= largest_kl * 1.05).count();
        curve.truncate((inside + 1).max(2));
        if let [.., a, b] = curve[..]
            && b.0 > largest_kl * 1.05
        {
            // the last segment is cut at the end of the chart
            let x = (largest_kl * 1.05).max(a.0);
            let last = curve.len() - 1;
            curve[last] = (x, a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0));
        }
        series.push(Series::new(style, color, curve).with_opacity(0.9).named(name));
    }
    let has_labels =
        run.arms().iter().map(|arm| run.points_of(arm).count()).sum::<usize>() <= MAX_LABELLED_POINTS && size == WIDE;
    for arm in run.arms() {
        series.extend(frontier_of(run, arm, arm_color(run, arm), arm.to_uppercase(), has_labels));
    }
    if let Some(center) = run.reference().and_then(kl_gold) {
        series.push(Series::new(MarkStyle::Cross { radius: 5.0 }, INK, vec![center]).named("reference (SFT)"));
    }
    Plot::new(size, KL_AXIS, gold_axis(run), series)
}

/// One arm on a chart of gold over KL.
pub(crate) fn frontier_of(run: &Run, arm: &str, color: RGBColor, name: String, has_labels: bool) -> [Series; 4] {
    let (low, high) = frontier::band(run, arm, BAND_STEPS);
    let seeds = seed_points(run, arm, metrics::KL, metrics::GOLD);
    let (data, labels) = point_means(run, arm, metrics::KL, metrics::GOLD);
    let rings = Series::new(MarkStyle::Rings { radius: 5.0 }, color, data.clone()).named(name.clone());
    [
        Series::band(color, &low, &high).described(format!("{name}, interval of its frontier")),
        Series::new(MarkStyle::Dots { radius: 2.5 }, color, seeds)
            .with_opacity(0.35)
            .described(format!("{name}, one seed")),
        Series::new(MarkStyle::Line { width: 1.5 }, color, data).with_opacity(0.55),
        if has_labels { rings.with_labels(labels) } else { rings },
    ]
}

/// Steps along an arm's frontier at which its interval is drawn.
const BAND_STEPS: usize = 24;

/// Every arm with its run, in the order that gives them their colors.
pub(crate) fn arms(runs: &[Run]) -> Vec<(&Run, &str, String)> {
    let arms_of = |run| -> Vec<(&Run, &str, String)> {
        let named = |arm: &str| format!("{}@{}", arm.to_uppercase(), Run::name(run));
        run.arms().into_iter().map(|arm| (run, arm, named(arm))).collect()
    };
    runs.iter().flat_map(arms_of).collect()
}

pub(crate) fn frontiers(runs: &[Run]) -> Plot {
    let mut series: Vec<Series> = vec![];
    for (index, (run, arm, name)) in arms(runs).into_iter().enumerate() {
        series.extend(frontier_of(run, arm, palette_color(index), name, false));
    }
    for run in runs {
        let center = run.reference().map(|p| (mean(&p.final_test(metrics::KL)), mean(&p.final_test(metrics::GOLD))));
        let name = format!("reference of {}", run.name());
        series.push(Series::new(MarkStyle::Cross { radius: 5.0 }, INK, center.into_iter().collect()).described(name));
    }
    Plot::new(WIDE, KL_AXIS, gold_axis(&runs[0]), series)
}

/// Means over seeds of two metrics of every checkpoint of a point's training, in step order.
fn checkpoint_means(point: &MeasuredPoint, x: Metric, y: Metric) -> Vec<(f64, f64)> {
    let length = point.seeds.values().map(Vec::len).min().unwrap_or(0);
    let both = |k: usize| -> Option<(f64, f64)> {
        let values =
            point.seeds.values().filter_map(|evaluations| Some((evaluations[k].test(x)?, evaluations[k].test(y)?)));
        let (xs, ys): (Vec<f64>, Vec<f64>) = values.unzip();
        (!xs.is_empty()).then(|| (mean(&xs), mean(&ys)))
    };
    (0..length).filter_map(both).collect()
}

/// Checkpoints of an arm beyond which a chart shows none of them.
const MAX_CHECKPOINTS: usize = 160;

/// Gold and learned reward above the reference over √KL: a line through the finished policies of an arm, and its checkpoints; of an arm
/// with a single point, a line along its training.
pub(crate) fn gold_and_proxy(run: &Run) -> Option<Plot> {
    let base = |arm: &str, metric| origin(run, arm).map(|p| mean(&p.final_test(metric)));
    let mut series = vec![];
    let theoretical = [("ppo-ideal", IDEAL), (BEST_OF_N, GREY)];
    let arms = run.arms().into_iter().map(|arm| (arm, arm_color(run, arm)));
    let largest_kl = run
        .arms()
        .iter()
        .flat_map(|arm| run.points_of(arm))
        .flat_map(|p| p.final_test(metrics::KL))
        .fold(0.0, f64::max);
    for (arm, color) in arms.chain(theoretical) {
        for (metric, style, mark, what) in [
            (metrics::GOLD, MarkStyle::Line { width: 2.2 }, MarkStyle::Dots { radius: 2.0 }, "gold"),
            (metrics::PROXY, MarkStyle::Dashed { width: 1.8 }, MarkStyle::Rings { radius: 2.0 }, "proxy"),
        ] {
            let base = base(arm, metric)?;
            let rises = |data: Vec<(f64, f64)>| -> Vec<(f64, f64)> {
                let inside = data.into_iter().filter(|p| p.0 <= largest_kl * 1.05);
                inside.map(|(kl, reward)| (kl.max(0.0).sqrt(), reward - base)).collect()
            };
            let along = |point: &MeasuredPoint| rises(checkpoint_means(point, metrics::KL, metric));
            let points: Vec<&MeasuredPoint> = run.points_of(arm).collect();
            let line = match points[..] {
                [point] => along(point),
                _ => rises(point_means(run, arm, metrics::KL, metric).0),
            };
            if line.is_empty() {
                continue;
            }
            let name = format!("{} {what}", arm.to_uppercase());
            let has_checkpoints =
                |point: &&MeasuredPoint| point.seeds.values().any(|evaluations| evaluations.len() > 1);
            let is_drawn = points.len() > 1 && points.iter().any(has_checkpoints);
            let checkpoints: Vec<(f64, f64)> =
                if is_drawn { points.into_iter().flat_map(along).collect() } else { vec![] };
            if (1..=MAX_CHECKPOINTS).contains(&checkpoints.len()) {
                let dots = Series::new(mark, color, checkpoints).with_opacity(0.3);
                series.push(dots.described(format!("{name}, one checkpoint")));
            }
            let line = std::iter::once((0.0, 0.0)).chain(line).collect();
            series.push(Series::new(style, color, line).named(name));
        }
    }
    (!series.is_empty()).then(|| Plot::new(WIDE, "√KL, √nats", "reward above the reference's", series))
}

/// A metric of finished policies over their KL: seeds, and means joined by a line.
pub(crate) fn over_kl(run: &Run, metric: Metric, y_name: &str) -> Option<Plot> {
    let mut series = vec![];
    for arm in run.arms() {
        let (color, name) = (arm_color(run, arm), arm.to_uppercase());
        let (line, _) = point_means(run, arm, metrics::KL, metric);
        if line.is_empty() {
            continue;
        }
        let seeds = seed_points(run, arm, metrics::KL, metric);
        series.push(
            Series::new(MarkStyle::Dots { radius: 2.5 }, color, seeds)
                .with_opacity(0.35)
                .described(format!("{name}, one seed")),
        );
        series.push(Series::new(MarkStyle::Line { width: 1.5 }, color, line.clone()).with_opacity(0.55));
        series.push(Series::new(MarkStyle::Rings { radius: 4.5 }, color, line).named(name));
    }
    if let Some(center) = run.reference().and_then(|p| point_mean(p, metrics::KL, metric)) {
        series.push(Series::new(MarkStyle::Cross { radius: 5.0 }, INK, vec![center]).named("reference (SFT)"));
    }
    (series.len() > 1).then(|| Plot::new(PANEL, KL_AXIS, y_name, series))
}
