//! From scores to advantages: the KL penalty, GAE, whitening. Nothing here carries a gradient.

use crate::mask::ResponseMask;
use burn::tensor::Tensor;

/// `r_t = −β KL_t`, plus the score once, on the last counted token. With [`k1`](crate::k1) for `KL_t` the penalties of a
/// response sum to `−β log(π/π_ref)`.
///
/// # Shapes
/// `scores`: `[B]`; `kl`: `[B, T]`, an estimate of each token's KL; returns `[B, T]`, 0 on padding.
/// # Source
/// Stiennon et al. 2020, §3.3; Ziegler et al. 2019, eq. 2.
pub fn kl_shaped_rewards(scores: Tensor<1>, kl: Tensor<2>, beta: f64, mask: &ResponseMask) -> Tensor<2> {
    mask.apply(kl) * -beta + mask.last() * scores.unsqueeze_dim::<2>(1) // [B, T]
}

/// [`kl_shaped_rewards`] of a score that is given in parts: the reward of each token where it is given, and what is left of the score
/// on the last counted token, so that a response's rewards sum to its score less the penalties.
///
/// # Shapes
/// `scores`: `[B]`; `token_rewards`, `kl`: `[B, T]`; returns `[B, T]`, 0 on padding.
/// # Source
/// Process rewards: Uesato et al. 2022; Lightman et al. 2023. With one at each token, verl's `token_level_scores`.
pub fn step_shaped_rewards(
    scores: Tensor<1>,
    token_rewards: Tensor<2>,
    kl: Tensor<2>,
    beta: f64,
    mask: &ResponseMask,
) -> Tensor<2> {
    let left = scores - mask.row_sums(token_rewards.clone()); // [B]
    kl_shaped_rewards(left, kl, beta, mask) + mask.apply(token_rewards)
}

/// What [`gae`] returns, both `[B, T]`.
#[derive(Debug, Clone)]
pub struct Gae {
    pub advantages: Tensor<2>,
    pub returns: Tensor<2>,
}

/// Generalised advantage estimation, backwards over the response:
/// `δ_t = r_t + γ V_{t+1} − V_t`, `A_t = δ_t + γλ A_{t+1}`, and the return `A_t + V_t`.
/// Beyond the last counted token V is 0; at γ = λ = 1 the advantage is the return minus the value.
///
/// # Shapes
/// `rewards`, `values`: `[B, T]`; padding is ignored and comes back 0.
/// # Source
/// Schulman et al. 2016, eq. 16.
pub fn gae(rewards: Tensor<2>, values: Tensor<2>, gamma: f64, lambda: f64, mask: &ResponseMask) -> Gae {
    let values = mask.apply(values); // [B, T]
    let tokens = values.dims()[1];
    let mut next_value = values.clone().narrow(1, 0, 1).zeros_like(); // [B, 1]
    let mut advantage = next_value.clone(); // [B, 1]
    let mut columns = Vec::with_capacity(tokens);
    for t in (0..tokens).rev() {
        let value = values.clone().narrow(1, t, 1); // [B, 1]
        let delta = rewards.clone().narrow(1, t, 1) + next_value * gamma - value.clone();
        advantage = delta + advantage * (gamma * lambda);
        next_value = value;
        columns.push(advantage.clone());
    }
    columns.reverse();
    let advantages = mask.apply(Tensor::cat(columns, 1)); // [B, T]
    Gae { returns: mask.apply(advantages.clone() + values), advantages }
}

/// Whitens over all counted tokens of the batch: mean 0, variance 1 (Bessel-corrected), 0 on padding.
///
/// # Source
/// `trl.core.masked_whiten` with `shift_mean=True`; 1e-8 is added under the root.
pub fn whiten(x: Tensor<2>, mask: &ResponseMask) -> Tensor<2> {
    let mean = mask.mean(x.clone()); // [1]
    mask.apply(x.clone() - mean.unsqueeze::<2>()) / spread(x, mask)
}

/// Scales to variance 1 over all counted tokens and keeps the mean, 0 on padding.
///
/// # Source
/// `trl.core.masked_whiten` with `shift_mean=False`: the mean itself is not scaled; used on rewards.
pub fn whiten_keep_mean(x: Tensor<2>, mask: &ResponseMask) -> Tensor<2> {
    let mean = mask.mean(x.clone()).unsqueeze::<2>(); // [1, 1]
    mask.apply((x.clone() - mean.clone()) / spread(x, mask) + mean)
}

/// Added to a variance before its square root is taken. `trl.core.masked_whiten`.
pub const WHITEN_EPS: f64 = 1e-8;

/// Bessel-corrected standard deviation over counted tokens, 1e-8 under the root, `[1, 1]`.
fn spread(x: Tensor<2>, mask: &ResponseMask) -> Tensor<2> {
    let count = mask.tensor().sum(); // [1]
    let centred = mask.apply(x.clone() - mask.mean(x).unsqueeze::<2>()); // [B, T]
    let variance = centred.square().sum() / (count - 1.0).clamp_min(1.0); // [1]
    (variance + WHITEN_EPS).sqrt().unsqueeze::<2>()
}
