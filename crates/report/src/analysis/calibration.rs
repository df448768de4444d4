//! Calibration of a reward model: how often the response with the higher score was chosen, against the probability that the
//! scores give it. And warnings about reward models and judges that know too little.

use crate::analysis::points::ReliabilityBin;
use crate::analysis::run::Run;
use crate::analysis::stats::wilson;
use duel_spec::metrics;

/// The pooled bins that contain pairs.
pub(crate) fn pooled(run: &Run) -> Vec<ReliabilityBin> {
    run.calibration.values().map(|seeds| ReliabilityBin::pooled(seeds.values())).filter(|bin| bin.pairs > 0.0).collect()
}

/// Whether `right` correct answers of `pairs` are no better than chance: the 95% interval of their share contains a half or lies
/// below it. Without pairs the interval is NaN, and nothing is known.
fn is_chance(right: f64, pairs: f64) -> bool {
    wilson(right, pairs, 0.95)[0] <= 0.5
}

/// The warning about reward models that order held-out pairs no better than chance, with their seeds.
pub(crate) fn at_chance(run: &Run) -> Vec<String> {
    let accuracy = run.shared_by_seed("rm", metrics::PAIR_ACCURACY_TEST);
    let pairs =
        |seed: u64| run.calibration.values().filter_map(|bins| bins.get(&seed)).map(|bin| bin.pairs).sum::<f64>();
    let weak = accuracy.into_iter().filter(|&(seed, share)| is_chance(share * pairs(seed), pairs(seed)));
    let weak: Vec<String> = weak
        .map(|(seed, share)| {
            let n = pairs(seed);
            let [low, high] = wilson(share * n, n, 0.95);
            format!("{share:.2} of {n} pairs at seed {seed} (95% interval {low:.2} to {high:.2})")
        })
        .collect();
    if weak.is_empty() {
        return vec![];
    }
    vec![format!(
        "on held-out pairs the reward model may be no better than a coin: it scores the chosen response higher in {}; a policy \
         optimized against it may fit noise. Train it longer or on more rows, or hold out more pairs (`stages.pairs.holdout_rows`)",
        weak.join(", ")
    )]
}

/// Pairs below which a judge that is learned from them says little. At 50 the 95% interval of a preference that holds in seven pairs
/// of ten is .56 to .81 (Wilson 1927).
const FEWEST_JUDGE_PAIRS: usize = 50;

/// The warning about a judge that is learned from so many pairs of a person's rows.
pub fn weak_judge(pairs: usize) -> Option<String> {
    (pairs < FEWEST_JUDGE_PAIRS).then(|| {
        format!(
            "the judge is learned from {pairs} held-out pair{}, too few to know what is preferred, so that gold reward says little. \
             Give more rows, raise `world.rows.holdout`, or choose another `judge.kind`",
            if pairs == 1 { "" } else { "s" }
        )
    })
}

/// The same of a run.
pub(crate) fn weak_judge_of(run: &Run) -> Option<String> {
    run.shared_metric("corpus", metrics::JUDGE_PAIRS).first().and_then(|&pairs| weak_judge(pairs as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::metrics::{CALIBRATION_PAIRS, CALIBRATION_SAID, CALIBRATION_WAS, PAIR_ACCURACY_TEST};
    use duel_spec::{Clocks, NO_POINT, SHARED_ARM};

    /// Bin, pairs, predicted and observed share.
    type Bin = (u64, f64, f64, f64);

    /// A run with the accuracy of the reward model and its bins at each seed.
    fn calibrated(by_seed: &[(f64, &[Bin])]) -> Run {
        let mut run = HandMadeRun::new("name = 'bins'\nseeds = 2\n[arms.a]\nmethod = 'ppo'");
        for (seed, (accuracy, bins)) in (0..).zip(by_seed) {
            run.row([SHARED_ARM, NO_POINT, "rm"], seed, Clocks::default(), PAIR_ACCURACY_TEST, *accuracy);
            for &(step, pairs, predicted, observed) in *bins {
                let clocks = Clocks { step, ..Clocks::default() };
                for (metric, value) in
                    [(CALIBRATION_PAIRS, pairs), (CALIBRATION_SAID, predicted), (CALIBRATION_WAS, observed)]
                {
                    run.row([SHARED_ARM, NO_POINT, "rm-calibration"], seed, clocks, metric, value);
                }
            }
        }
        run.finish()
    }

    /// By hand: the first bin has 30 and 10 pairs, the second has pairs at one seed alone, the third has none.
    #[test]
    fn bins_with_pairs_are_pooled_over_seeds() {
        let run = calibrated(&[
            (0.6, &[(0, 30.0, 0.6, 0.5), (1, 0.0, 0.0, 0.0), (2, 0.0, 0.0, 0.0)]),
            (0.6, &[(0, 10.0, 0.64, 0.9), (1, 8.0, 0.75, 0.5), (2, 0.0, 0.0, 0.0)]),
        ]);
        let bins: Vec<[f64; 3]> = pooled(&run).iter().map(|bin| [bin.pairs, bin.predicted, bin.observed]).collect();
        let expected = [[40.0, 0.61, 0.6], [8.0, 0.75, 0.5]];
        assert_eq!(bins.len(), 2, "{bins:?}");
        assert!(
            bins.as_flattened().iter().zip(expected.as_flattened()).all(|(a, b)| (a - b).abs() < 1e-12),
            "{bins:?}"
        );
    }

    /// `binomtest(27, 50).proportion_ci(.95, "wilson")` of scipy 1.17 is .404 to .670, and that of 45 begins at .786.
    #[test]
    fn the_warning_names_the_seeds_whose_reward_model_is_at_chance() {
        let weak: &[Bin] = &[(0, 20.0, 0.6, 0.5), (1, 30.0, 0.7, 0.5)];
        let warnings = at_chance(&calibrated(&[(0.9, &[(0, 50.0, 0.9, 0.9)]), (0.54, weak)]));
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("higher in 0.54 of 50 pairs at seed 1 (95% interval 0.40 to 0.67); a policy"),
            "{warnings:?}"
        );
        assert!(at_chance(&calibrated(&[(0.9, &[(0, 50.0, 0.9, 0.9)])])).is_empty());
        assert!(at_chance(&calibrated(&[(0.54, &[])])).is_empty(), "no pairs were held out");
    }

    #[test]
    fn a_reward_model_whose_interval_contains_a_half_is_at_chance() {
        // wilson(37, 50) is .60 to .84, wilson(27, 50) is .40 to .67
        assert!(!is_chance(37.0, 50.0) && is_chance(27.0, 50.0));
        assert!(is_chance(10.0, 50.0), "worse than chance");
        assert!(!is_chance(f64::NAN, 0.0) && !is_chance(0.0, 0.0), "nothing was held out");
        assert!(!is_chance(540.0, 1000.0) && is_chance(525.0, 1000.0));
    }

    #[test]
    fn a_judge_of_few_pairs_is_named() {
        let warning = |pairs: Option<f64>| {
            let mut run = HandMadeRun::new("name = 'judged'\n[arms.a]\nmethod = 'dpo'");
            if let Some(value) = pairs {
                run.row([SHARED_ARM, NO_POINT, "corpus"], 0, Clocks::default(), metrics::JUDGE_PAIRS, value);
            }
            weak_judge_of(&run.finish())
        };
        assert!(warning(Some(3.0)).is_some_and(|text| text.contains("from 3 held-out pairs")));
        assert_eq!((warning(Some(50.0)), warning(None)), (None, None), "enough, and none that is learned");
    }

    #[test]
    fn seeds_are_pooled_by_their_pairs() {
        let bins = [
            ReliabilityBin { pairs: 30.0, predicted: 0.6, observed: 0.5 },
            ReliabilityBin { pairs: 10.0, predicted: 0.64, observed: 0.9 },
        ];
        let ReliabilityBin { pairs, predicted, observed } = ReliabilityBin::pooled(bins.iter());
        assert!(pairs == 40.0 && (predicted - 0.61).abs() < 1e-12 && (observed - 0.6).abs() < 1e-12);
        assert_eq!(ReliabilityBin::pooled([ReliabilityBin::default()].iter()).pairs, 0.0);
    }
}
