//! Policy-gradient losses by their parts: the level of the ratio, what keeps it near 1, which responses are left out; advantages
//! carry the weight of each token, and the mask the mean. PPO, GSPO, CISPO, SAPO and the others are settings of it (METHODS.md).

use crate::kl::{k1, k3};
use crate::mask::ResponseMask;
use burn::tensor::{Tensor, activation::sigmoid};

/// The policy's loss and diagnostics of the step; all `[1]`, the diagnostics on the device without autodiff.
#[derive(Debug, Clone)]
pub struct PolicyLoss {
    pub loss: Tensor<1>,
    /// Share of counted tokens on which the clip was binding: the loss is not the one without a clip.
    pub clip_share: Tensor<1>,
    /// k3 of KL(behavior policy || new policy), mean over counted tokens, nats; the tokens are from the behavior policy.
    pub kl: Tensor<1>,
    /// Largest ratio over counted tokens (1 on padding).
    pub ratio_max: Tensor<1>,
    /// Largest `|ratio − 1|` over counted tokens.
    pub ratio_deviation: Tensor<1>,
}

impl PolicyLoss {
    /// A loss without a clip, with the diagnostics of the log-probs `[B, T]`.
    pub fn unclipped(loss: Tensor<1>, logp: Tensor<2>, old_logp: Tensor<2>, mask: &ResponseMask) -> Self {
        let mask = mask.clone().map(without_graph);
        let log_ratio = mask.apply(without_graph(logp) - without_graph(old_logp)); // [B, T]
        Self::with_diagnostics(loss, Tensor::zeros([1], &log_ratio.device()), log_ratio, &mask)
    }

    /// `log_ratio` `[B, T]` of each token and the mask are on the device without autodiff.
    fn with_diagnostics(loss: Tensor<1>, clip_share: Tensor<1>, log_ratio: Tensor<2>, mask: &ResponseMask) -> Self {
        let ratio = log_ratio.clone().exp(); // [B, T]
        let deviation = (ratio.clone() - 1.0).abs(); // [B, T]
        Self {
            loss,
            clip_share,
            kl: mask.mean(k3(log_ratio.zeros_like(), log_ratio)),
            ratio_max: ratio.max(),
            ratio_deviation: deviation.max(),
        }
    }
}

/// The level of the probability ratio of the new policy to the behavior policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RatioLevel {
    /// `r_t = π(y_t) / π_old(y_t)`. Schulman et al. 2017, §3.
    #[default]
    Token,
    /// GSPO: `s = (π(y) / π_old(y))^(1/|y|)` for every token of a response. Zheng et al. 2025, eq. 7.
    Sequence,
    /// GSPO-token: the value of `s`, with the gradient of each token's own log-prob. Zheng et al. 2025, eq. 14.
    SequenceToken,
}

/// The gain `[B, T]` of a token of ratio r and advantage A.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Surrogate {
    /// `min(r A, clip(r, 1−low, 1+high) A)`, and not below `dual·A` where A < 0. Schulman et al. 2017, eq. 7; Yu et al. 2025, §3.1
    /// (`high`); Ye et al. 2020, and INTELLECT-2's δ (`dual`, which is above 1+high; infinite: none).
    Clipped { low: f64, high: f64, dual: f64 },
    /// CISPO: `sg(clip(r, 1−low, 1+high)) A log π`. MiniMax 2025, eq. 4–5.
    ClippedWeight { low: f64, high: f64 },
    /// SAPO: `4/τ σ(τ (r − 1)) A`, τ by the sign of A. Gao et al. 2025.
    SoftGate { positive: f64, negative: f64 },
    /// VESPO: `sg(φ(w)) A log π`, `φ(w) = w^k e^(λ(1 − w))`, w = π(y)/π_old(y) of the response, its logarithm between log 1e-8 and 20;
    /// k and λ by the sign of A. Shen et al. 2026, as trl.
    SoftWeight { positive: SoftKernel, negative: SoftKernel },
}

/// VESPO's `φ(w) = w^k e^(λ(1 − w))`, which is 1 at 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SoftKernel {
    pub k: f64,
    pub lambda: f64,
}

/// The logarithms of VESPO's sequence weights, and those of one token's ratio, at most.
const LARGEST_LOG_WEIGHT: f64 = 20.0;

/// A policy-gradient loss by its parts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PolicyGradientLoss {
    pub level: RatioLevel,
    pub surrogate: Surrogate,
    /// Nats per token, mean of k1 of KL(behavior policy || new policy) over a response: above it tokens with a negative advantage
    /// count as 0; infinite: none do. DeepSeek-AI 2025 (V3.2), eq. 9.
    pub off_policy_mask_threshold: f64,
}

impl PolicyGradientLoss {
    /// PPO's: Schulman et al. 2017, eq. 7.
    pub fn clipped(clip_range: f64) -> Self {
        Self {
            level: RatioLevel::Token,
            surrogate: Surrogate::Clipped { low: clip_range, high: clip_range, dual: f64::INFINITY },
            off_policy_mask_threshold: f64::INFINITY,
        }
    }

    /// Minus the mean gain, to be minimized.
    ///
    /// # Shapes
    /// all `[B, T]`; the mean is the mask's [`average`](ResponseMask::average).
    pub fn evaluate(
        &self,
        logp: Tensor<2>,
        old_logp: Tensor<2>,
        advantages: Tensor<2>,
        mask: &ResponseMask,
    ) -> PolicyLoss {
        let log_ratio = mask.apply(logp.clone() - old_logp); // [B, T]
        let ratio = self.level.of(log_ratio.clone(), mask).exp(); // [B, T]
        let (gain, is_clipped) = self.surrogate.gain(ratio, &log_ratio, mask.apply(logp), advantages.clone(), mask); // [B, T]
        let plain_mask = mask.clone().map(without_graph);
        let clip_share = plain_mask.share(is_clipped);
        let log_ratio = without_graph(log_ratio);
        let gain = match self.off_policy_mask_threshold {
            f64::INFINITY => gain,
            threshold => gain * near_policy(&log_ratio, without_graph(advantages), threshold, mask),
        };
        PolicyLoss::with_diagnostics(mask.average(gain).neg(), clip_share, log_ratio, &plain_mask)
    }
}

impl RatioLevel {
    /// The log of the ratio at this level, from that of each token, `[B, T]`.
    fn of(self, log_ratio: Tensor<2>, mask: &ResponseMask) -> Tensor<2> {
        let shape = log_ratio.dims();
        let mean = |x: Tensor<2>| {
            let means = mask.row_sums(x) / mask.lengths().clamp_min(1.0); // [B]
            means.unsqueeze_dim::<2>(1).expand(shape) // [B, T]
        };
        match self {
            Self::Token => log_ratio,
            Self::Sequence => mean(log_ratio),
            Self::SequenceToken => mean(log_ratio.clone().detach()) + log_ratio.clone() - log_ratio.detach(),
        }
    }
}

impl Surrogate {
    /// The gain of each token, `[B, T]`, and whether a clip is binding on it, without gradient. `ratio` is at the level of the loss,
    /// `log_ratio` of each token.
    fn gain(
        self,
        ratio: Tensor<2>,
        log_ratio: &Tensor<2>,
        logp: Tensor<2>,
        advantages: Tensor<2>,
        mask: &ResponseMask,
    ) -> (Tensor<2>, Tensor<2, burn::tensor::Bool>) {
        let differ = |a: &Tensor<2>, b: &Tensor<2>| without_graph(a.clone()).not_equal(without_graph(b.clone()));
        match self {
            Self::Clipped { low, high, dual } => {
                let unclipped = ratio.clone() * advantages.clone();
                let clipped = ratio.clone().clamp(1.0 - low, 1.0 + high) * advantages.clone();
                // as dual > 1 + high, a bound on r acts where A < 0 alone
                let bounded = if dual.is_finite() { ratio.clamp_max(dual) * advantages } else { unclipped.clone() };
                let gain = bounded.min_pair(clipped);
                let is_clipped = differ(&gain, &unclipped);
                (gain, is_clipped)
            }
            Self::ClippedWeight { low, high } => {
                let weight = ratio.clone().clamp(1.0 - low, 1.0 + high).detach();
                let is_clipped = differ(&weight, &ratio);
                (weight * advantages * logp, is_clipped)
            }
            Self::SoftGate { positive, negative } => {
                let gains = advantages.clone().greater_elem(0.0);
                let tau = (advantages.zeros_like() + negative).mask_fill(gains, positive); // [B, T]
                let is_clipped = without_graph(ratio.clone()).lower_elem(0.0); // nothing is
                let gate = sigmoid(tau.clone() * (ratio - 1.0)) * 4.0 / tau;
                (gate * advantages, is_clipped)
            }
            Self::SoftWeight { positive, negative } => {
                let weight = soft_weights(log_ratio, without_graph(advantages.clone()), [positive, negative], mask);
                let is_clipped = without_graph(ratio).lower_elem(0.0); // nothing is
                (weight * advantages * logp, is_clipped)
            }
        }
    }
}

/// VESPO's weight of each token's gain, that of its response, without gradient, `[B, T]`. `kernels`: of advantages of at least 0, and
/// below.
fn soft_weights(
    log_ratio: &Tensor<2>,
    advantages: Tensor<2>,
    kernels: [SoftKernel; 2],
    mask: &ResponseMask,
) -> Tensor<2> {
    let shape = log_ratio.dims();
    let plain_mask = mask.clone().map(without_graph);
    let bounded = without_graph(log_ratio.clone()).clamp(-LARGEST_LOG_WEIGHT, LARGEST_LOG_WEIGHT);
    let log_weight = plain_mask.row_sums(bounded).clamp(1e-8f64.ln(), LARGEST_LOG_WEIGHT); // [B]
    let log_weight = log_weight.unsqueeze_dim::<2>(1).expand(shape); // [B, T]
    let excess = (log_weight.clone().exp() - 1.0).neg(); // 1 − w
    let [at_least_zero, negative] =
        kernels.map(|SoftKernel { k, lambda }| (log_weight.clone() * k + excess.clone() * lambda).exp());
    let weights = at_least_zero.mask_where(advantages.lower_elem(0.0), negative);
    if log_ratio.is_autodiff() { Tensor::from_inner(weights) } else { weights }
}

/// 1 where the advantage is not negative, or the response is still near the behavior policy; else 0; `[B, T]`.
fn near_policy(log_ratio: &Tensor<2>, advantages: Tensor<2>, threshold: f64, mask: &ResponseMask) -> Tensor<2> {
    let plain_mask = mask.clone().map(without_graph);
    let kl = k1(log_ratio.zeros_like(), log_ratio.clone()); // [B, T]
    let kl = plain_mask.row_sums(kl) / plain_mask.lengths().clamp_min(1.0); // [B]
    let is_far = kl.greater_elem(threshold).unsqueeze_dim::<2>(1).expand(log_ratio.dims()); // [B, T]
    let is_left_out = is_far.bool_and(advantages.lower_elem(0.0));
    let kept = log_ratio.ones_like().mask_fill(is_left_out, 0.0);
    if mask.tensor().is_autodiff() { Tensor::from_inner(kept) } else { kept }
}

/// The same on the device without autodiff, where an operation costs less.
pub(crate) fn without_graph(x: Tensor<2>) -> Tensor<2> {
    if x.is_autodiff() { x.inner() } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn diagnostics_by_hand() {
        let device = Device::flex();
        let mask = ResponseMask::from_lengths(&[2, 1], 2, &device);
        let logp = Tensor::from_data([[-1.0f32, -2.0], [-0.5, -9.0]], &device);
        let old_logp = Tensor::from_data([[-1.5f32, -1.0], [-0.5, -1.0]], &device); // log-ratios 0.5, −1, 0 and one of padding
        let value = |x: Tensor<1>| x.into_data().try_to_vec::<f32>().expect("f32")[0];
        let of_level = |level| {
            let loss = PolicyGradientLoss { level, ..PolicyGradientLoss::clipped(0.2) };
            loss.evaluate(logp.clone(), old_logp.clone(), logp.ones_like(), &mask)
        };
        let losses = [
            PolicyLoss::unclipped(Tensor::zeros([1], &device), logp.clone(), old_logp.clone(), &mask),
            of_level(RatioLevel::Token),
            of_level(RatioLevel::Sequence), // diagnostics are of tokens at any level
            of_level(RatioLevel::SequenceToken),
        ];
        for loss in losses {
            assert!((value(loss.ratio_max) - 0.5f32.exp()).abs() < 1e-6);
            assert!((value(loss.ratio_deviation) - 0.5f32.exp_m1()).abs() < 1e-6); // e^½ − 1 is more than 1 − e^−1
            let k3 = |log_ratio: f32| log_ratio.exp_m1() - log_ratio;
            let kl = (k3(0.5) + k3(-1.0)) / 3.0; // of the behavior policy: r − 1 − ln r
            assert!((value(loss.kl) - kl).abs() < 1e-6);
        }
    }
}
