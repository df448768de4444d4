//! Gold and learned reward over √KL with the functional forms that are fitted to them.

use crate::analysis::run::Run;
use crate::analysis::scaling_fit::{ScalingFit, rises, scaling_fits};
use crate::charts::figure::{WIDE, arm_color};
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::charts::theme::GREY;
use duel_spec::metrics::GOLD;

/// Points of a curve.
const STEPS: usize = 48;

/// Policies beyond which a chart shows none of them.
const MAX_POLICIES: usize = 600;

/// The gold of every policy of an arm that is fitted, and the fits.
pub(crate) fn scaling_plot(run: &Run) -> Option<Plot> {
    let fits: Vec<ScalingFit> = scaling_fits(run).into_iter().filter(|fit| fit.what == "gold").collect();
    let mut series = vec![];
    for fit in &fits {
        let color = if run.arms().contains(&fit.arm.as_str()) { arm_color(run, &fit.arm) } else { GREY };
        let seeds = run.experiment.seed_list();
        let policies: Vec<(f64, f64)> =
            seeds.iter().filter_map(|&seed| rises(run, &fit.arm, seed, GOLD)).flatten().collect();
        if policies.len() <= MAX_POLICIES {
            let dots = Series::new(MarkStyle::Dots { radius: 2.0 }, color, policies).with_opacity(0.25);
            series.push(dots.described(format!("{}, one policy of one seed", fit.arm.to_uppercase())));
        }
        let curve = (0..=STEPS).map(|step| fit.furthest * step as f64 / STEPS as f64).map(|d| (d, fit.at(d))).collect();
        series.push(Series::new(MarkStyle::Line { width: 2.0 }, color, curve).named(fit.arm.to_uppercase()));
    }
    (!series.is_empty()).then(|| Plot::new(WIDE, "d = √KL, √nats", "gold gain, sd of the reference", series))
}
