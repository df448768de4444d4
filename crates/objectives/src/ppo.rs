//! The clipped loss of PPO's value model.

use crate::mask::ResponseMask;
use crate::policy_loss::without_graph;
use burn::tensor::Tensor;

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
