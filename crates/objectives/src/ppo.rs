//! The clipped losses of PPO.

use crate::kl::k3;
use crate::mask::ResponseMask;
use burn::tensor::Tensor;

/// The policy's loss and diagnostics of the step; all `[1]`, the diagnostics on the device without autodiff.
#[derive(Debug, Clone)]
pub struct PolicyLoss {
    pub loss: Tensor<1>,
    /// Share of counted tokens on which the clip was binding: the clipped term was the smaller gain.
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

    /// `log_ratio` `[B, T]` and the mask are on the device without autodiff.
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

/// Schulman et al. 2017, eq. 7, to be minimized: `mean max(−A r, −A clip(r, 1−ε, 1+ε))`, r the ratio
/// of the new policy to the behavior policy.
///
/// # Shapes
/// all `[B, T]`; the mean is the mask's [`average`](ResponseMask::average).
pub fn clipped_policy_loss(
    logp: Tensor<2>,
    old_logp: Tensor<2>,
    advantages: Tensor<2>,
    clip_range: f64,
    mask: &ResponseMask,
) -> PolicyLoss {
    let log_ratio = mask.apply(logp - old_logp); // [B, T]
    let ratio = log_ratio.clone().exp(); // [B, T]
    let unclipped = ratio.clone() * advantages.clone();
    let clipped = ratio.clone().clamp(1.0 - clip_range, 1.0 + clip_range) * advantages;
    let plain_mask = mask.clone().map(without_graph);
    let clip_share = plain_mask.share(without_graph(clipped.clone()).lower(without_graph(unclipped.clone())));
    let loss = mask.average(unclipped.min_pair(clipped)).neg();
    PolicyLoss::with_diagnostics(loss, clip_share, without_graph(log_ratio), &plain_mask)
}

/// The same on the device without autodiff, where an operation costs less.
fn without_graph(x: Tensor<2>) -> Tensor<2> {
    if x.is_autodiff() { x.inner() } else { x }
}

/// The value model's loss, `[1]`.
#[derive(Debug, Clone)]
pub struct ValueLoss {
    pub loss: Tensor<1>,
    /// Share of counted tokens on which the clip was binding: the clipped error was the larger. On the device without autodiff.
    pub clip_share: Tensor<1>,
}

/// `½ mean max((V − R)², (clip(V, V_old ± ε) − R)²)`, the mask's [`average`](ResponseMask::average).
///
/// # Shapes
/// all `[B, T]`.
/// # Source
/// Huang et al. 2024; `trl 0.11 PPOTrainer.loss`.
pub fn clipped_value_loss(
    values: Tensor<2>,
    old_values: Tensor<2>,
    returns: Tensor<2>,
    clip_range: f64,
    mask: &ResponseMask,
) -> ValueLoss {
    let clipped = old_values.clone() + (values.clone() - old_values).clamp(-clip_range, clip_range); // [B, T]
    let unclipped_error = (values - returns.clone()).square();
    let clipped_error = (clipped - returns).square();
    let is_clipped = without_graph(clipped_error.clone()).greater(without_graph(unclipped_error.clone()));
    let clip_share = mask.clone().map(without_graph).share(is_clipped);
    ValueLoss { loss: mask.average(unclipped_error.max_pair(clipped_error)) * 0.5, clip_share }
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
        let losses = [
            PolicyLoss::unclipped(Tensor::zeros([1], &device), logp.clone(), old_logp.clone(), &mask),
            clipped_policy_loss(logp.clone(), old_logp, logp.ones_like(), 0.2, &mask),
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
