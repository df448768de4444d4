//! The reward model's loss on pairs.

use crate::preference::{ChosenRejected, rao_kupper, smoothed};
use burn::tensor::Tensor;

/// The result of [`bradley_terry_loss`] on a batch.
#[derive(Debug, Clone)]
pub struct BradleyTerry {
    /// Mean over pairs, `[1]`, nats.
    pub loss: Tensor<1>,
    /// Per pair, without the centring term, `[N]`, nats.
    pub losses: Tensor<1>,
    /// Score of chosen minus rejected, `[N]`.
    pub margins: Tensor<1>,
}

/// Optional terms of [`bradley_terry_loss`]; none by default.
#[derive(Debug, Clone, Default)]
pub struct BradleyTerryOptions {
    /// m, `[N]`: the margin that the chosen response must have. Touvron et al. 2023, eq. 2.
    pub strengths: Option<Tensor<1>>,
    /// c pulls scores to 0. Eisenstein et al. 2023.
    pub centring: f64,
    /// 1 on ties, else 0, `[N]`, and α, the margin below which a pair is likely a tie.
    pub ties: Option<(Tensor<1>, f64)>,
    /// e, the probability that a label is wrong. Wang et al. 2024 (Secrets of RLHF II), eq. 11.
    pub label_smoothing: f64,
}

/// `−(1−e) log σ(u) − e log σ(−u) + c (r(x, y_w) + r(x, y_l))²`, `u = r(x, y_w) − r(x, y_l) − m`: at m = c = 0, ln 2 on a
/// tie and invariant to a constant added to both scores. With `ties`, [`rao_kupper`] of u in place of both logarithms.
///
/// # Source
/// Bradley & Terry 1952; Stiennon et al. 2020, eq. 1.
pub fn bradley_terry_loss(scores: ChosenRejected, terms: BradleyTerryOptions) -> BradleyTerry {
    let BradleyTerryOptions { strengths, centring, ties, label_smoothing } = terms;
    let margins = scores.clone().difference(); // [N]
    let surplus = match strengths {
        Some(strengths) => margins.clone() - strengths,
        None => margins.clone(),
    };
    let losses = match ties {
        Some((tied, alpha)) => rao_kupper(surplus, Some(tied), alpha),
        None => smoothed(surplus, label_smoothing),
    };
    let mut loss = losses.clone().mean();
    if centring != 0.0 {
        loss = loss + (scores.chosen + scores.rejected).square().mean() * centring;
    }
    BradleyTerry { loss, losses, margins }
}
