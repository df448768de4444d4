//! Weights of the tokens and of the pairs of a preference loss.

use crate::{ChosenRejected, ResponseMask};
use burn::tensor::{Tensor, activation::log_softmax};

/// Weights of the tokens of both responses of each pair, chosen ones first, `[2N, T]`: `alpha` on those past the number of
/// tokens that the shorter response of the pair has, 1 on the others. `mask` `[2N, T]`.
///
/// # Source
/// LD-DPO, Liu et al. 2024; trl 1.16 `ld_alpha`.
pub fn length_desensitized(mask: &ResponseMask, alpha: f64) -> Tensor<2> {
    let lengths = mask.lengths(); // [2N]
    let n = lengths.dims()[0] / 2;
    let shorter = lengths.clone().narrow(0, 0, n).min_pair(lengths.narrow(0, n, n)); // [N]
    let shared = Tensor::cat(vec![shorter.clone(), shorter], 0).unsqueeze_dim::<2>(1); // [2N, 1]
    let position = mask.tensor().cumsum(1); // of the counted tokens, from 1: [2N, T]
    (position - shared).clamp(0.0, 1.0) * (alpha - 1.0) + 1.0 // [2N, T]
}

/// `log π(y_t) − log Σ_v π(v)²`: how likely each token is, against what the policy would sample there.
///
/// # Shapes
/// `logp`: `[B, T]`; `logits`: `[B, T, V]`; returns `[B, T]`.
/// # Source
/// WPO, Zhou et al. 2024 (sampled alignment); trl 1.16 `use_weighting`.
pub fn sampled_alignment(logp: Tensor<2>, logits: Tensor<3>) -> Tensor<2> {
    logp - log_sum_of_squares(logits) // [B, T]
}

/// `log Σ_v π(v)²` of the softmax of the logits `[B, T, V]`: `[B, T]`.
fn log_sum_of_squares(logits: Tensor<3>) -> Tensor<2> {
    (log_softmax(logits, 2) * 2.0).exp().sum_dim(2).log().squeeze_dim::<2>(2) // [B, T]
}

/// Weights of pairs: the product over both responses of the exponential of the mean alignment a token, `[N]`, without
/// gradient. `alignment` and `mask`: `[2N, T]`, chosen responses first.
///
/// # Source
/// WPO, Zhou et al. 2024, eq. 2.
pub fn wpo_weights(alignment: Tensor<2>, mask: &ResponseMask) -> Tensor<1> {
    let means = mask.row_sums(alignment.detach()) / mask.lengths().clamp_min(1.0); // [2N]
    let n = means.dims()[0] / 2;
    let both = ChosenRejected { chosen: means.clone().narrow(0, 0, n), rejected: means.narrow(0, n, n) };
    (both.chosen + both.rejected).exp() // [N]
}
