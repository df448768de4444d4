//! What must hold of a reward model in every run (claims §8).

use duel_training::Result;
use duel_training::invariants::close;

/// A pair of equal responses costs ln 2.
pub fn tied_pairs_cost_ln_2(step: u64, loss: f64) -> Result<()> {
    close("tied_pairs_cost_ln_2", step, "the loss of tied pairs", loss, std::f64::consts::LN_2, 1e-6)
}

/// Adding a constant to every score changes no loss: only differences are identified.
pub fn a_constant_changes_no_loss(step: u64, loss: f64, loss_with_constant: f64) -> Result<()> {
    let tolerance = 1e-5 * loss.max(1.0);
    close(
        "a_constant_changes_no_loss",
        step,
        "the loss with 1 added to every score",
        loss_with_constant,
        loss,
        tolerance,
    )
}

/// Scores of the SFT samples have mean 0 and standard deviation 1, unless they do not vary at all.
pub fn scores_are_normalised(scores: &[f64]) -> Result<()> {
    let n = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / n;
    let sd = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n).sqrt();
    close("scores_are_normalised", 0, "the mean score of SFT samples", mean, 0.0, 1e-3)?;
    if sd < 1e-2 {
        return Ok(());
    }
    close("scores_are_normalised", 0, "the standard deviation of SFT samples' scores", sd, 1.0, 1e-3)
}
