//! Figures of what trainings cost, and of the cost to a target.

use crate::analysis::cost_to_target::cost_to_target;
use crate::analysis::costs::{ArmCost, Clock, arm_costs, threads_label};
use crate::analysis::run::Run;
use crate::analysis::stats::median;
use crate::charts::axes::Scale;
use crate::charts::bars::{Bar, Bars};
use crate::charts::figure::{BAR_PANEL, PANEL, arm_color};
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::format::{fixed, seconds, si};

/// The cost to the target of each arm at each seed, one row per arm; the median is a ring.
pub(crate) fn cost_to_target_plot(run: &Run, label: &str, clock: Clock) -> Option<Plot> {
    let (arms, kl) = (run.arms(), run.experiment.tuning.kl);
    let (mut series, mut labels) = (vec![], vec![]);
    for (row, arm) in arms.iter().enumerate() {
        let seeds = run.experiment.seed_list();
        let costs: Vec<f64> = seeds.iter().filter_map(|&seed| cost_to_target(run, arm, seed, kl, clock)).collect();
        let finite: Vec<(f64, f64)> = costs.iter().filter(|x| x.is_finite()).map(|&x| (x, row as f64)).collect();
        let never = costs.len() - finite.len();
        labels.push(if never > 0 { format!("{} ({never} never)", arm.to_uppercase()) } else { arm.to_uppercase() });
        let (color, name) = (arm_color(run, arm), arm.to_uppercase());
        series.push(
            Series::new(MarkStyle::Dots { radius: 4.0 }, color, finite)
                .with_opacity(0.45)
                .described(format!("{name}, one seed")),
        );
        let median_point = vec![(median(&costs), row as f64)];
        series.push(
            Series::new(MarkStyle::Rings { radius: 6.0 }, color, median_point).described(format!("{name}, median")),
        );
    }
    let height = 90 + 34 * arms.len() as u32;
    let has_data = series.iter().any(|s| !s.data.is_empty());
    let plot = Plot::new((PANEL.0, height), format!("{label} to the target"), "", series);
    has_data.then_some(Plot { x_scale: Scale::Log, y_categories: labels, ..plot })
}

pub(crate) fn cost_bars(run: &Run) -> Vec<(&'static str, Bars)> {
    let costs = arm_costs(run);
    let panel = |title: &str, parts: &dyn Fn(&ArmCost) -> [f64; 2], label_of: &dyn Fn(f64) -> String| Bars {
        size: BAR_PANEL,
        title: title.into(),
        bars: costs
            .iter()
            .map(|cost| {
                let parts = parts(cost);
                let label = label_of(parts[0] + parts[1]);
                Bar { name: cost.arm.to_uppercase(), color: arm_color(run, &cost.arm), parts, label }
            })
            .collect(),
    };
    vec![
        ("models", panel("models in memory during training", &|c| [0.0, c.models], &|x| fixed(x, 0))),
        ("sampled", panel("tokens sampled in training", &|c| [0.0, c.sampled], &si)),
        ("flops", panel("FLOPs (pale: prerequisites)", &|c| [c.flops_before, c.flops - c.flops_before], &si)),
        (
            "seconds",
            panel(
                &format!("seconds, {} (pale: prerequisites)", threads_label(run)),
                &|c| [c.seconds_before, c.seconds - c.seconds_before],
                &seconds,
            ),
        ),
    ]
}
