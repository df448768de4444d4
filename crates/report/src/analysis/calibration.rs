//! Calibration of a reward model: how often the response with the higher score was chosen, against the probability that the
//! scores give it.

use crate::analysis::points::ReliabilityBin;
use crate::analysis::run::Run;
use crate::analysis::stats::wilson;
use duel_spec::metrics;

/// The pooled bins that contain pairs.
pub(crate) fn pooled(run: &Run) -> Vec<ReliabilityBin> {
    run.calibration.values().map(|seeds| ReliabilityBin::pooled(seeds.values())).filter(|bin| bin.pairs > 0.0).collect()
}

/// Whether `right` correct answers of `pairs` are no better than chance: the 95% interval of their share contains a half or lies
/// below it.
fn is_chance(right: f64, pairs: f64) -> bool {
    pairs > 0.0 && wilson(right, pairs, 0.95)[0] <= 0.5
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
        "the reward model orders held-out pairs no better than chance: {}; a policy optimized against it would fit noise. Train it \
         longer or on more rows, or judge it on more (`stages.pairs.holdout_rows`)",
        weak.join(", ")
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reward_model_whose_interval_contains_a_half_is_at_chance() {
        // wilson(37, 50) is .60 to .84, wilson(27, 50) is .40 to .67
        assert!(!is_chance(37.0, 50.0) && is_chance(27.0, 50.0));
        assert!(is_chance(10.0, 50.0), "worse than chance");
        assert!(!is_chance(f64::NAN, 0.0), "nothing was held out");
        assert!(!is_chance(540.0, 1000.0) && is_chance(525.0, 1000.0));
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
