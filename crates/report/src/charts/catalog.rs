//! The list of a run's figures. A new one is drawn by a function of its group's file and listed here.

use crate::analysis::costs::Clock;
use crate::analysis::head_to_head::HeadToHead;
use crate::analysis::merged_parts::can_compare_costs;
use crate::analysis::run::Run;
use crate::analysis::tuning::TuningResults;
use crate::charts::arm_comparison::{stability, strength_forest, win_rates};
use crate::charts::best_of_n::best_of_n_plots;
use crate::charts::cost_charts::{cost_bars, cost_to_target_plot};
use crate::charts::figure::{Figure, NARROW, WIDE};
use crate::charts::output::AnyChart;
use crate::charts::over_kl::{frontier_plot, gold_and_proxy, over_kl};
use crate::charts::pair_bins::accuracy_plots;
use crate::charts::plot::Plot;
use crate::charts::reward_model::{calibration_curve, pair_accuracy};
use crate::charts::scaling_fit::scaling_plot;
use crate::charts::settings::setting_charts;
use crate::charts::training_curves::{displacement, gold_curve, training_plot};
use duel_spec::metrics;

/// The clocks by name, with the name of their axis.
const CLOCKS: [(&str, &str, Clock); 4] = [
    ("steps", "optimizer steps", |c| c.step as f64),
    ("tokens", "tokens trained, sampled and scored", |c| c.tokens as f64),
    ("flops", "FLOPs", |c| c.flops),
    (SECONDS, "seconds of training", |c| c.wall_seconds),
];

/// The clock that differs between machines.
const SECONDS: &str = "seconds";

/// Every figure that the run has numbers for; those of seconds only where all arms were measured on one machine at each seed.
pub(crate) fn all_figures(run: &Run, tuning: &TuningResults) -> Vec<Figure> {
    let figure = |(group, name, alt, plot): (&'static str, &str, &str, Option<Plot>)| {
        Some(Figure { name: name.into(), group, alt: alt.into(), chart: AnyChart::Plot(plot?) })
    };
    let mut figures = frontiers_and_curves(run);
    figures.extend(comparisons(run));
    figures.extend(training_figures(run).into_iter().filter_map(figure));
    figures.extend(reward_model_figures(run).into_iter().filter_map(figure));
    figures.extend(setting_charts(run, tuning));
    if !can_compare_costs(run) {
        figures.retain(|figure| figure.name.rsplit('-').next() != Some(SECONDS));
    }
    figures
}

/// Gold over KL and along the clocks.
fn frontiers_and_curves(run: &Run) -> Vec<Figure> {
    let frontier = |name: &'static str, size| Figure {
        name: name.into(),
        group: name,
        alt: "Gold reward over KL from the reference: points, seeds and frontier of every arm".into(),
        chart: AnyChart::Plot(frontier_plot(run, size)),
    };
    let curve = |(name, label, clock): (&str, &str, Clock)| Figure {
        name: format!("curve-{name}"),
        group: "curves",
        alt: format!("Gold reward during training, over {label}"),
        chart: AnyChart::Plot(gold_curve(run, label, clock)),
    };
    let frontiers = [frontier("frontier", WIDE), frontier("frontier-narrow", NARROW)];
    frontiers.into_iter().chain(CLOCKS.map(curve)).collect()
}

/// The arms against each other: costs, costs to a target, win rates and strengths, gains.
fn comparisons(run: &Run) -> Vec<Figure> {
    let bars = cost_bars(run).into_iter().map(|(name, bars)| Figure {
        name: format!("cost-{name}"),
        group: "costs",
        alt: bars.title.clone(),
        chart: AnyChart::Bars(bars),
    });
    let to_target = CLOCKS[2..].iter().filter_map(|(name, label, clock)| {
        Some(Figure {
            name: format!("reach-{name}"),
            group: "reach",
            alt: format!("Cost of each arm to reach half of the optimum's gain, in {label}"),
            chart: AnyChart::Plot(cost_to_target_plot(run, label, *clock)?),
        })
    });
    let policies = HeadToHead::at_common_kl(run);
    let wins = policies.as_ref().map(|policies| Figure {
        name: "win-rates".into(),
        group: "wins",
        alt: "Win rate of every arm against every other".into(),
        chart: AnyChart::Heatmap(win_rates(policies)),
    });
    let strengths = policies.and_then(|policies| strength_forest(run, &policies)).map(|plot| Figure {
        name: "strengths".into(),
        group: "strength",
        alt: "Bradley-Terry strength of every arm over the reference".into(),
        chart: AnyChart::Plot(plot),
    });
    let gains = stability(run).map(|plot| Figure {
        name: "stability".into(),
        group: "stability",
        alt: "The gain at equal KL by seed, for every arm".into(),
        chart: AnyChart::Plot(plot),
    });
    bars.chain(to_target).chain(wins).chain(strengths).chain(gains).collect()
}

/// Group, name, alternative text, and plot.
type Listed = (&'static str, &'static str, &'static str, Option<Plot>);

/// What happens during the trainings, and to the responses.
fn training_figures(run: &Run) -> [Listed; 9] {
    [
        ("proxy", "proxy", "Gold and learned reward over the square root of KL", gold_and_proxy(run)),
        (
            "proxy",
            "scaling",
            "Gold over the square root of KL, with the functional forms of Gao et al. 2022 fitted to it",
            scaling_plot(run),
        ),
        (
            "trust",
            "trust-kl",
            "KL of the policy before each update to the one after",
            training_plot(run, metrics::KL_STEP, "KL of an update, nats per token"),
        ),
        (
            "trust",
            "trust-clip",
            "Share of tokens on which the clip was binding",
            training_plot(run, metrics::CLIP_SHARE, "clipped, share of tokens"),
        ),
        (
            "displacement",
            "margin",
            "Margin of chosen over rejected responses during DPO training",
            training_plot(run, metrics::DPO_MARGIN, "margin, reward"),
        ),
        (
            "displacement",
            "displacement",
            "Log-ratio of held-out chosen and rejected responses to the reference during training",
            displacement(run),
        ),
        ("shape", "length", "Length of responses over KL", over_kl(run, metrics::LENGTH, "response length, tokens")),
        (
            "shape",
            "distinct",
            "Share of distinct bigrams over KL",
            over_kl(run, metrics::DISTINCT_2, "distinct bigrams, share"),
        ),
        (
            "shape",
            "entropy",
            "Entropy of the policy over KL",
            over_kl(run, metrics::ENTROPY, "entropy, nats per response"),
        ),
    ]
}

/// The reward model on held-out pairs, and what the best of N responses by it are worth.
fn reward_model_figures(run: &Run) -> [Listed; 6] {
    let [by_margin, by_length] = accuracy_plots(run);
    let [over_kl, over_n] = best_of_n_plots(run);
    [
        ("pair-bins", "accuracy-margin", "Test pairs ordered as labelled, by margin", by_margin),
        ("pair-bins", "accuracy-length", "Test pairs ordered as labelled, by difference of length", by_length),
        ("best-of-n", "best-of-n-kl", "Gold and learned reward of the best of N over the square root of KL", over_kl),
        ("best-of-n", "best-of-n", "Gold and learned reward of the best of N responses over N", over_n),
        ("judge", "reward-model", "Pair accuracy of the reward model by seed", pair_accuracy(run)),
        ("judge", "calibration", "Calibration of the reward model on test pairs", calibration_curve(run)),
    ]
}
