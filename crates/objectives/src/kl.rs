//! How far a policy is from its reference. Schulman, "Approximating KL divergence", 2020.

use burn::tensor::{Tensor, activation::log_softmax};

/// `log π − log π_ref` of the sampled token: unbiased, of either sign. `[B, T]` in, `[B, T]` out, nats.
pub fn k1(logp: Tensor<2>, ref_logp: Tensor<2>) -> Tensor<2> {
    logp - ref_logp
}

/// `(log π − log π_ref)² / 2`: biased, small variance, never negative.
pub fn k2(logp: Tensor<2>, ref_logp: Tensor<2>) -> Tensor<2> {
    k1(logp, ref_logp).square() / 2.0
}

/// `π_ref/π − 1 − log(π_ref/π)`: unbiased, never negative; its variance explodes beyond one nat (docs/claims.md, A10).
pub fn k3(logp: Tensor<2>, ref_logp: Tensor<2>) -> Tensor<2> {
    let log_ratio = ref_logp - logp; // [B, T]
    log_ratio.clone().exp() - 1.0 - log_ratio
}

/// `KL(π(·|y<t) || π_ref(·|y<t))` over the whole vocabulary at each position; summed over a sampled
/// response it is the Rao-Blackwell estimate of the sequence KL (Amini et al. 2025).
///
/// # Shapes
/// both logits: `[B, T, V]`; returns `[B, T]`, each at least 0.
pub fn full_kl(logits: Tensor<3>, ref_logits: Tensor<3>) -> Tensor<2> {
    let (logp, ref_logp) = (log_softmax(logits, 2), log_softmax(ref_logits, 2)); // [B, T, V]
    (logp.clone().exp() * (logp - ref_logp)).sum_dim(2).squeeze_dim::<2>(2) // [B, T]
}

/// Ziegler et al. 2019, eq. 2–3: a KL coefficient that steers the measured KL to a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveBeta {
    pub beta: f64,
    /// Target KL per response, nats.
    pub target: f64,
    /// Episodes over which a steady error of 1 would change beta e-fold.
    pub horizon: f64,
}

impl AdaptiveBeta {
    /// After `episodes` responses whose mean KL was `kl`: `β (1 + clip(kl/target − 1, ±0.2) · episodes/horizon)`.
    pub fn update(&mut self, kl: f64, episodes: usize) {
        let error = (kl / self.target - 1.0).clamp(-0.2, 0.2);
        self.beta *= 1.0 + error * episodes as f64 / self.horizon;
    }
}

/// Schulman et al. 2017, §4: β halved where the KL is below `target`/1.5, doubled where it is above 1.5 `target`.
pub fn ppo_kl_penalty_update(beta: f64, kl: f64, target: f64) -> f64 {
    if kl < target / 1.5 {
        beta / 2.0
    } else if kl > target * 1.5 {
        beta * 2.0
    } else {
        beta
    }
}

#[cfg(test)]
mod tests {
    use super::ppo_kl_penalty_update;

    #[test]
    fn beta_moves_only_outside_the_band() {
        let updated = [1.9, 2.0, 2.1, 4.4, 4.5, 4.6].map(|kl| ppo_kl_penalty_update(0.4, kl, 3.0));
        assert_eq!(updated, [0.2, 0.4, 0.4, 0.4, 0.4, 0.8], "at 2 and 4.5, the ends of the band, it does not change");
        let updated = [0.3, 0.5, 0.8, 1.0].map(|kl| ppo_kl_penalty_update(0.4, kl, 0.6));
        assert_eq!(updated, [0.2, 0.4, 0.4, 0.8], "the band is between 0.4 and 0.9");
    }
}
