//! Invariants of reward models (ARCHITECTURE.md, What is checked while it runs).

use duel_training::Result;
use duel_training::invariants::{Tolerance, check_close};
use std::f64::consts::LN_2;

/// A pair of equal responses has loss ln 2; `score` is the largest magnitude of a score.
pub fn tied_pairs_cost_ln_2(step: u64, loss: f64, score: f64) -> Result<()> {
    let within = Tolerance { share: 1e-6, of: "the largest score, at least 1", scale: score.max(1.0) };
    check_close("tied_pairs_cost_ln_2", step, "the loss of tied pairs", loss, LN_2, within)
}

/// Adding a constant to every score changes no loss: only differences are identified. `score` is the largest magnitude of a
/// score, relative to which the constant is rounded.
pub fn a_constant_changes_no_loss(step: u64, loss: f64, loss_with_constant: f64, score: f64) -> Result<()> {
    let within =
        Tolerance { share: 1e-5, of: "the loss or the largest score, at least 1", scale: loss.max(score).max(1.0) };
    check_close(
        "a_constant_changes_no_loss",
        step,
        "the loss with 1 added to every score",
        loss_with_constant,
        loss,
        within,
    )
}

/// Scores of the SFT samples have mean 0 and standard deviation `sd`: 1, unless they hardly vary. `offset` is the subtracted
/// mean over the scale: scores are rounded relative to it.
pub fn scores_are_normalised(scores: &[f64], sd: f64, offset: f64) -> Result<()> {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let actual_sd = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n).sqrt();
    let within = Tolerance { share: 1e-5, of: "1 and the offset taken from the raw scores", scale: 1.0 + offset.abs() };
    check_close("scores_are_normalised", 0, "the mean score of SFT samples", mean, 0.0, within)?;
    check_close("scores_are_normalised", 0, "the standard deviation of SFT samples' scores", actual_sd, sd, within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_training::Error;

    fn breaks(name: &str, result: Result<()>) {
        match result {
            Err(Error::Invariant { name: broken, .. }) => assert_eq!(broken, name),
            other => panic!("{name} should break, got {other:?}"),
        }
    }

    #[test]
    fn each_holds_where_it_should_and_breaks_where_it_should() {
        assert!(tied_pairs_cost_ln_2(0, LN_2 + 5e-7, 0.1).is_ok());
        breaks("tied_pairs_cost_ln_2", tied_pairs_cost_ln_2(0, LN_2 + 2e-6, 0.1));
        // f32 scores of 100 are precise to 8e-6, and the loss to half of that
        assert!(tied_pairs_cost_ln_2(0, LN_2 + 4e-6, 100.0).is_ok());
        breaks("tied_pairs_cost_ln_2", tied_pairs_cost_ln_2(0, 0.7, 100.0));
        assert!(a_constant_changes_no_loss(0, 0.5, 0.500_001, 1.0).is_ok());
        breaks("a_constant_changes_no_loss", a_constant_changes_no_loss(0, 0.5, 0.51, 1.0));
        assert!(a_constant_changes_no_loss(0, 0.5, 0.51, 1e4).is_ok(), "1 added to 10,000 is rounded to a thousandth");
        breaks("a_constant_changes_no_loss", a_constant_changes_no_loss(0, 0.5, 0.8, 1e4));

        let normalised = |scores: [f64; 2]| scores_are_normalised(&scores, 1.0, 0.0);
        assert!(normalised([-1.0, 1.0]).is_ok());
        breaks("scores_are_normalised", normalised([-1.0, 1.01]));
        breaks("scores_are_normalised", normalised([-1.01, 1.01]));
        // scores that hardly vary are not scaled up to a deviation of 1
        assert!(scores_are_normalised(&[-0.3, 0.3], 0.3, 0.0).is_ok());
        breaks("scores_are_normalised", scores_are_normalised(&[-0.3, 0.3], 1.0, 0.0));
        let diverged = |result| matches!(result, Err(Error::Diverged { .. }));
        assert!(diverged(normalised([f64::NAN, 1.0])) && diverged(tied_pairs_cost_ln_2(0, f64::INFINITY, 1.0)));
    }

    /// Each bound, just inside and just outside of it, where another quantity sets the scale.
    #[test]
    fn bounds_are_relative_to_the_scores() {
        for (score, scale) in [(0.1, 1.0), (1.0, 1.0), (100.0, 100.0)] {
            for sign in [-1.0, 1.0] {
                let loss = |share: f64| LN_2 + sign * share * scale;
                assert!(tied_pairs_cost_ln_2(0, loss(0.99e-6), score).is_ok(), "{score}");
                breaks("tied_pairs_cost_ln_2", tied_pairs_cost_ln_2(0, loss(1.01e-6), score));
            }
        }
        for (loss, score, scale) in [(0.5, 0.1, 1.0), (0.5, 50.0, 50.0), (300.0, 50.0, 300.0)] {
            for sign in [-1.0, 1.0] {
                let raised = |share: f64| loss + sign * share * scale;
                assert!(a_constant_changes_no_loss(0, loss, raised(0.99e-5), score).is_ok(), "{loss}, {score}");
                breaks("a_constant_changes_no_loss", a_constant_changes_no_loss(0, loss, raised(1.01e-5), score));
            }
        }
        for (offset, scale) in [(0.0, 1.0), (9.0, 10.0), (-9.0, 10.0)] {
            for sign in [-1.0, 1.0] {
                let moved = |share: f64| [-1.0, 1.0, -1.0, 1.0].map(|score| score + sign * share * scale);
                let spread = |share: f64| [-1.0, 1.0, -1.0, 1.0].map(|score| score * (1.0 + sign * share * scale));
                assert!(scores_are_normalised(&moved(0.99e-5), 1.0, offset).is_ok(), "{offset}");
                breaks("scores_are_normalised", scores_are_normalised(&moved(1.01e-5), 1.0, offset));
                assert!(scores_are_normalised(&spread(0.99e-5), 1.0, offset).is_ok(), "{offset}");
                breaks("scores_are_normalised", scores_are_normalised(&spread(1.01e-5), 1.0, offset));
            }
        }
    }

    /// A deviation is about the mean of the scores, even where that is far from 0.
    #[test]
    fn the_deviation_is_about_the_mean() {
        let scores = [-0.1, 1.9, -0.1, 1.9];
        assert!(scores_are_normalised(&scores, 1.0, 1e5 - 1.0).is_ok(), "both may be off by 1");
        breaks("scores_are_normalised", scores_are_normalised(&scores, 1.0, 8e4));
    }
}
