//! Figures of the arms against each other at one KL.

use crate::analysis::frontier::{common_kl, gain_at};
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, mean};
use crate::analysis::win_rate;
use crate::charts::figure::{PANEL, WIDE, arm_color};
use crate::charts::heatmap::Heatmap;
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::format::{fixed, nats};
use duel_spec::{REFERENCE, WorldKind};

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

/// Win rates between all arms and the reference at one KL; mixtures of finished policies.
pub(crate) fn win_rates(run: &Run) -> Option<Heatmap> {
    if run.outcomes.is_empty() {
        return None;
    }
    let kl = common_kl(run);
    let names: Vec<&str> = run.arms().into_iter().chain([REFERENCE]).collect();
    let seeds = run.experiment.seed_list();
    let outcomes: Vec<Vec<Option<Vec<win_rate::PromptOutcomes>>>> =
        names.iter().map(|arm| seeds.iter().map(|&seed| win_rate::outcomes_at(run, arm, seed, kl)).collect()).collect();
    let rates = |a: usize, b: usize| -> Vec<Vec<f64>> {
        let pairs = outcomes[a].iter().zip(&outcomes[b]);
        pairs
            .filter_map(|(a, b)| Some(win_rate::by_prompt(a.as_ref()?, b.as_ref()?, false)))
            .filter(|r| !r.is_empty())
            .collect()
    };
    let cell = |a: usize, b: usize| -> (Option<f64>, String) {
        if a == b {
            return (None, "–".into());
        }
        let rates = rates(a, b);
        let means: Vec<f64> = rates.iter().map(|of_prompts| mean(of_prompts)).collect();
        match Estimate::of(&means) {
            // one seed: the interval is over prompts, where they are a sample
            Some(Estimate { mean, half_width: None, .. }) => {
                let is_sample = run.experiment.world.kind != WorldKind::Grammar;
                let interval = win_rate::prompt_interval(&rates).filter(|_| is_sample);
                let interval =
                    interval.map_or(String::new(), |[low, high]| format!(" [{}, {}]", fixed(low, 2), fixed(high, 2)));
                (Some(mean), format!("{}{interval}", fixed(mean, 2)))
            }
            Some(estimate) => (Some(estimate.mean), format!("{estimate:.2}")),
            None => (None, "–".into()),
        }
    };
    let cells: Vec<Vec<(Option<f64>, String)>> =
        (0..names.len()).map(|a| (0..names.len()).map(|b| cell(a, b)).collect()).collect();
    let (shares, labels) = cells.into_iter().map(|row| row.into_iter().unzip()).unzip();
    let width = 100 + 95 * names.len() as u32;
    let size = (width.clamp(PANEL.0, WIDE.0), 50 + 40 * names.len() as u32);
    let names =
        names.iter().map(|name| if *name == REFERENCE { "reference".into() } else { name.to_uppercase() }).collect();
    Some(Heatmap { size, names, shares, labels })
}
