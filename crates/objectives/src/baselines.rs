//! Baselines without a value model: a response's return relative to the others to the same prompt. No gradient.
//!
//! # Shapes
//! `returns`: `[B]`, one per response, `B` a multiple of `group`; responses to one prompt are consecutive.

use burn::tensor::Tensor;

/// Each return minus the mean of the others to the same prompt, `[B]`.
///
/// # Source
/// Kool et al. 2019; Ahmadian et al. 2024, eq. 9 (RLOO).
pub fn leave_one_out(returns: Tensor<1>, group: usize) -> Tensor<1> {
    let k = group as f64;
    centred(returns, group).flatten::<1>(0, 1) * (k / (k - 1.0))
}

/// Each return minus the mean of its prompt's, divided by their (Bessel-corrected) standard deviation plus 1e-4 where
/// `scale` is set, `[B]`.
///
/// # Source
/// Shao et al. 2024, §4.1.2 (GRPO); without the scale Liu et al. 2025, eq. 4. The 1e-4 is that of trl's GRPOTrainer.
pub fn group_relative(returns: Tensor<1>, group: usize, scale: bool) -> Tensor<1> {
    let centred = centred(returns, group); // [B/K, K]
    if !scale {
        return centred.flatten(0, 1);
    }
    let variance = centred.clone().square().sum_dim(1) / (group as f64 - 1.0).max(1.0); // [B/K, 1]
    (centred / (variance.sqrt() + 1e-4)).flatten(0, 1)
}

/// Several rewards, each normalized within its group as [`group_relative`] does with `scale`; their weighted sum divided by its
/// (Bessel-corrected) standard deviation over the batch plus 1e-4, `[B]`. The mean of the sum, which the source subtracts too, is 0 as
/// that of each group is: groups in which no reward has a spread keep an advantage of exactly 0.
///
/// # Shapes
/// `rewards`: `[B]` each, with their weights.
/// # Source
/// Liu et al. 2026 (GDPO); trl 1.16 GRPOTrainer with `multi_objective_aggregation="normalize_then_sum"`.
pub fn group_decoupled(rewards: Vec<(Tensor<1>, f64)>, group: usize) -> Tensor<1> {
    let normalized = rewards.into_iter().map(|(reward, weight)| group_relative(reward, group, true) * weight); // [B] each
    let sum = normalized.reduce(|sum, reward| sum + reward).expect("at least one reward"); // [B]
    let [rows] = sum.dims();
    let variance = sum.clone().square().sum() / (rows as f64 - 1.0).max(1.0); // [1]
    sum / (variance.sqrt() + 1e-4)
}

/// `[B/K, K]`, each row with mean 0. Computed relative to the row's first return, so that equal returns give exactly 0 and
/// not a rounding error, which a tiny standard deviation would magnify.
fn centred(returns: Tensor<1>, group: usize) -> Tensor<2> {
    let [rows] = returns.dims();
    let groups = returns.reshape([rows / group, group]); // [B/K, K]
    let groups = groups.clone() - groups.narrow(1, 0, 1);
    groups.clone() - groups.mean_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(x: Tensor<1>) -> Vec<f32> {
        x.into_data().try_to_vec().expect("f32")
    }

    #[test]
    fn by_hand() {
        let returns = || Tensor::<1>::from_data([2.0f32, 3.0, 7.0, 5.0, 5.0, 5.0], &burn::tensor::Device::flex());
        // 2 − (3+7)/2, 3 − (2+7)/2, 7 − (2+3)/2; equal returns have no advantage
        assert_eq!(values(leave_one_out(returns(), 3)), [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]);
        assert_eq!(values(group_relative(returns(), 3, false)), [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0]);
        let equal = Tensor::<1>::from_data([0.1f32; 7], &burn::tensor::Device::flex());
        assert_eq!(values(group_relative(equal, 7, true)), [0.0; 7]);
        let sd = 7f32.sqrt() + 1e-4; // (4 + 1 + 9) / 2
        for (actual, expected) in
            values(group_relative(returns(), 3, true)).iter().zip([-2.0, -1.0, 3.0, 0.0, 0.0, 0.0])
        {
            assert!((actual - expected / sd).abs() < 1e-6, "{actual}, expected {}", expected / sd);
        }
    }
}
