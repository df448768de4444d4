//! A figure of a report, and what figures share: sizes, axis names, the color of each arm.

use crate::analysis::points::MeasuredPoint;
use crate::analysis::run::Run;
use crate::analysis::stats::mean;
use crate::charts::output::AnyChart;
use crate::charts::theme::{self, palette_color};
use duel_spec::metrics::Metric;
use duel_spec::{JudgeKind, WorldKind};
use plotters::style::RGBColor;

/// Sizes in SVG pixels: a wide chart, the same for a narrow screen, a panel of a row.
pub(crate) const WIDE: (u32, u32) = (760, 470);
pub(crate) const NARROW: (u32, u32) = (400, 400);
pub(crate) const PANEL: (u32, u32) = (400, 310);
pub(crate) const BAR_PANEL: (u32, u32) = (400, 120);

/// A chart with its name and its group on the page.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) group: &'static str,
    /// Alternative text.
    pub(crate) alt: String,
    pub(crate) chart: AnyChart,
}

/// An arm's color.
pub(crate) fn arm_color(run: &Run, arm: &str) -> RGBColor {
    palette_color(palette_index(run, arm))
}

/// Arms whose colors are the same in every run.
const FIXED_COLOR_ARMS: [&str; 2] = ["dpo", "ppo"];

/// An arm's index in the palette: fixed for some arms, else the next that is free.
pub(crate) fn palette_index(run: &Run, arm: &str) -> usize {
    if let Some(index) = FIXED_COLOR_ARMS.iter().position(|fixed| *fixed == arm) {
        return index;
    }
    let arms = run.arms();
    let index = arms.iter().filter(|a| !FIXED_COLOR_ARMS.contains(a)).position(|a| *a == arm).unwrap_or(0);
    let free: Vec<usize> = (0..theme::PALETTE_SIZE)
        .filter(|&index| FIXED_COLOR_ARMS.get(index).is_none_or(|k| !arms.contains(k)))
        .collect();
    free[index % free.len()]
}

pub(crate) fn gold_axis(run: &Run) -> String {
    match run.experiment.world.kind {
        WorldKind::Grammar => "gold reward, test prompts".into(),
        WorldKind::Reviews if run.experiment.judge.kind == JudgeKind::World => {
            "gold reward (sentiment log-odds), test prompts".into()
        }
        WorldKind::Reviews | WorldKind::Rows => "gold reward, test prompts".into(),
    }
}

pub(crate) const KL_AXIS: &str = "KL from the reference, nats per response";

/// Means over seeds of two metrics of the finished policies.
pub(crate) fn point_mean(point: &MeasuredPoint, x: Metric, y: Metric) -> Option<(f64, f64)> {
    let (x, y) = (point.final_test(x), point.final_test(y));
    (!x.is_empty() && !y.is_empty()).then(|| (mean(&x), mean(&y)))
}

/// Two metrics of each seed's finished policies.
pub(crate) fn seed_points(run: &Run, arm: &str, x: Metric, y: Metric) -> Vec<(f64, f64)> {
    run.points_of(arm).flat_map(|p| p.finished()).filter_map(|(_, m)| Some((m.test(x)?, m.test(y)?))).collect()
}

/// An arm's points by rising x: means over seeds, and their labels.
pub(crate) fn point_means(run: &Run, arm: &str, x: Metric, y: Metric) -> (Vec<(f64, f64)>, Vec<String>) {
    let mut means: Vec<((f64, f64), String)> =
        run.points_of(arm).filter_map(|p| Some((point_mean(p, x, y)?, p.display_label()))).collect();
    means.sort_by(|a, b| a.0.0.total_cmp(&b.0.0));
    means.into_iter().unzip()
}
