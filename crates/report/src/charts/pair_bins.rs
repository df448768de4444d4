//! Figures of the pairs that rewards order as labelled: by margin, and by difference of length.

use crate::analysis::pair_bins::PooledBin;
use crate::analysis::run::Run;
use crate::charts::figure::{PANEL, arm_color};
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::charts::theme::{GREY, INK};
use crate::format::short;
use duel_spec::metrics::BAYES_ACCURACY;
use duel_spec::{PairDivision, Split};
use plotters::style::RGBColor;

/// The width, in categories, that the rewards of one bin share.
const BIN_WIDTH: f64 = 0.6;

/// Accuracy of reward model and featured policies on test pairs: by their margin, and by chosen minus rejected tokens.
pub(crate) fn accuracy_plots(run: &Run) -> [Option<Plot>; 2] {
    let by = run.pair_bins.divisions(Split::Test);
    let by_margin = by.iter().find(|by| !matches!(by, PairDivision::Whole | PairDivision::Length));
    [by_margin.copied(), by.contains(&PairDivision::Length).then_some(PairDivision::Length)]
        .map(|by| accuracy_plot(run, by?))
}

/// What the bins of a division are of.
fn x_name(by: PairDivision) -> &'static str {
    match by {
        PairDivision::Whole => "all pairs",
        PairDivision::GoldMargin => "difference of gold, mean of each quarter",
        PairDivision::LabelStrength => "strength of the label, mean of each quarter",
        PairDivision::OwnMargin => "the reward model's margin, mean of each quarter",
        PairDivision::Length => "chosen minus rejected, tokens, mean of each bin",
    }
}

fn accuracy_plot(run: &Run, by: PairDivision) -> Option<Plot> {
    let of_reward_model = run.pair_bins.of_reward_model(Split::Test, by);
    let policies = run.arms().into_iter().filter_map(|arm| {
        let bins = run.pair_bins.pooled(arm, &run.featured(arm)?.label, Split::Test, by);
        (!bins.is_empty()).then(|| (arm.to_uppercase(), arm_color(run, arm), bins))
    });
    let rewards: Vec<(String, RGBColor, Vec<PooledBin>)> =
        std::iter::once(("reward model".to_string(), INK, of_reward_model.clone())).chain(policies).collect();
    // the bins that the reward model has, by their place on the axis
    let place = |bin: &PooledBin| of_reward_model.iter().position(|known| known.number == bin.number);
    let mut series = vec![];
    if !run.shared_metric("pairs", BAYES_ACCURACY).is_empty() {
        let ceiling = of_reward_model.iter().enumerate().map(|(x, bin)| (x as f64, bin.ceiling)).collect();
        series.push(Series::new(MarkStyle::Dashed { width: 1.5 }, GREY, ceiling).named("ceiling"));
    }
    for (index, (name, color, bins)) in rewards.iter().enumerate() {
        let shift = BIN_WIDTH * ((index as f64 + 0.5) / rewards.len() as f64 - 0.5);
        let at: Vec<(f64, &PooledBin)> =
            bins.iter().filter_map(|bin| Some((place(bin)? as f64 + shift, bin))).collect();
        let ends = at.iter().flat_map(|(x, bin)| bin.interval.map(|end| (*x, end))).collect();
        let means = at.iter().map(|(x, bin)| (*x, bin.accuracy)).collect();
        series
            .push(Series::new(MarkStyle::Whiskers { width: 2.0 }, *color, ends).described(format!("{name}, interval")));
        series.push(Series::new(MarkStyle::Dots { radius: 4.5 }, *color, means).named(name));
    }
    let x_categories: Vec<String> = of_reward_model.iter().map(|bin| short(bin.value)).collect();
    let x_ticks = Some((0..x_categories.len()).map(|x| x as f64).collect());
    let plot = Plot::new(PANEL, x_name(by), "pairs ordered as labelled, share", series);
    (!of_reward_model.is_empty()).then_some(Plot { x_ticks, x_categories, ..plot })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::metrics::{ACCURACY_IN_BIN, CEILING_IN_BIN, GOLD, Metric, PAIRS_IN_BIN, VALUE_IN_BIN};
    use duel_spec::{Clocks, NO_POINT, SHARED_ARM, bins_stage};

    /// Bins 0 and 3 hold pairs, of the policy also one that the reward model has not.
    #[test]
    fn bins_are_drawn_at_their_places() {
        let mut run = HandMadeRun::new("name = 'bins'\nseeds = 1\n[arms.a]\nmethod = 'dpo'\ngrid.beta = [0.1]");
        run.evaluation("a", "beta=0.1", 0, Clocks::default(), &[(GOLD, 1.0)]);
        let mut bins = |arm: &str, point: &str, by, numbers: &[u64]| {
            for &step in numbers {
                let values: [(Metric, f64); 4] = [
                    (PAIRS_IN_BIN, 8.0),
                    (VALUE_IN_BIN, step as f64 - 1.5),
                    (ACCURACY_IN_BIN, 0.75),
                    (CEILING_IN_BIN, 0.9),
                ];
                for (metric, value) in values {
                    let clocks = Clocks { step, ..Clocks::default() };
                    run.row([arm, point, &bins_stage("rm", Split::Test, by)], 0, clocks, metric, value);
                }
            }
        };
        bins(SHARED_ARM, NO_POINT, PairDivision::Whole, &[0]);
        bins(SHARED_ARM, NO_POINT, PairDivision::Length, &[0, 3]);
        bins("a", "beta=0.1", PairDivision::Length, &[0, 1, 3]);
        let [margin, Some(plot)] = accuracy_plots(&run.finish()) else { panic!("no plot by length") };
        assert!(margin.is_none(), "no margin was recorded");
        assert_eq!(plot.x_categories, ["-1.5", "1.5"]);
        let dots: Vec<&Series> = plot.series.iter().filter(|s| matches!(s.style, MarkStyle::Dots { .. })).collect();
        let xs: Vec<Vec<f64>> = dots.iter().map(|s| s.data.iter().map(|point| point.0).collect()).collect();
        let near = |x: f64, expected: f64| (x - expected).abs() < 1e-12;
        assert!(xs.len() == 2 && near(xs[0][0], -0.15) && near(xs[0][1], 0.85), "{xs:?}");
        assert!(xs[1].len() == 2 && near(xs[1][0], 0.15) && near(xs[1][1], 1.15), "{xs:?}");
        assert_eq!(dots.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["reward model", "A"]);
        assert!(plot.series.iter().all(|s| s.name != "ceiling"), "of labels whose probability is not known");
    }
}
