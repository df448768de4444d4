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

/// What each arm must spend at each seed until its gold first reaches the target, arm by arm from above; the median is a ring.
pub(crate) fn cost_to_target_plot(run: &Run, label: &str, clock: Clock) -> Option<Plot> {
    let (arms, kl) = (run.arms(), run.experiment.tuning.kl);
    let (mut series, mut words) = (vec![], vec![]);
    for (row, arm) in arms.iter().enumerate() {
        let seeds = run.experiment.seed_list();
        let all: Vec<f64> = seeds.iter().filter_map(|&seed| cost_to_target(run, arm, seed, kl, clock)).collect();
        let there: Vec<(f64, f64)> = all.iter().filter(|x| x.is_finite()).map(|&x| (x, row as f64)).collect();
        let never = all.len() - there.len();
        words.push(if never > 0 { format!("{} ({never} never)", arm.to_uppercase()) } else { arm.to_uppercase() });
        let (color, name) = (arm_color(run, arm), arm.to_uppercase());
        series.push(
            Series::new(MarkStyle::Dots { radius: 4.0 }, color, there)
                .with_opacity(0.45)
                .described(format!("{name}, a seed")),
        );
        let middle = vec![(median(&all), row as f64)];
        series.push(Series::new(MarkStyle::Rings { radius: 6.0 }, color, middle).described(format!("{name}, median")));
    }
    let height = 90 + 34 * arms.len() as u32;
    let is_any = series.iter().any(|s| !s.data.is_empty());
    let plot = Plot::new((PANEL.0, height), format!("{label} to the target"), "", series);
    is_any.then_some(Plot { x_scale: Scale::Log, y_categories: words, ..plot })
}

pub(crate) fn cost_bars(run: &Run) -> Vec<(&'static str, Bars)> {
    let costs = arm_costs(run);
    let panel = |title: &str, parts: &dyn Fn(&ArmCost) -> [f64; 2], words: &dyn Fn(f64) -> String| Bars {
        size: BAR_PANEL,
        title: title.into(),
        bars: costs
            .iter()
            .map(|cost| {
                let parts = parts(cost);
                let words = words(parts[0] + parts[1]);
                Bar { name: cost.arm.to_uppercase(), color: arm_color(run, &cost.arm), parts, words }
            })
            .collect(),
    };
    vec![
        ("models", panel("models in memory while training", &|c| [0.0, c.models], &|x| fixed(x, 0))),
        ("sampled", panel("tokens sampled in the loop", &|c| [0.0, c.sampled], &si)),
        ("flops", panel("FLOPs (pale: before the loop)", &|c| [c.flops_before, c.flops - c.flops_before], &si)),
        (
            "seconds",
            panel(
                &format!("seconds, {} (pale: before the loop)", threads_label(run)),
                &|c| [c.seconds_before, c.seconds - c.seconds_before],
                &seconds,
            ),
        ),
    ]
}
