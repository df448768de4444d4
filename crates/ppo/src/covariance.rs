//! Control of the few tokens whose log-prob and advantage are high together, by which entropy collapses. Cui et al. 2025.
//!
//! Deviations from the paper: tokens are chosen once per rollout, by the log-probs of the policy that wrote it, and not in every
//! minibatch, so that a minibatch read in parts is the same.

use crate::rollout::Rollout;
use burn::tensor::{Tensor, TensorData};
use duel_model::weights::host;
use duel_objectives::token_covariances;
use duel_spec::seeds::{self, Stream};
use duel_spec::{CovarianceControl, RolloutSettings};

/// Leaves out the advantage of some tokens of a rollout (Clip-Cov, eq. 11–12), or has their KL to its policy penalized (KL-Cov,
/// eq. 13–14).
///
/// # Shapes
/// `advantages`: `[B, T]`
pub fn control_covariance(
    rollout: Rollout,
    s: &RolloutSettings,
    advantages: &Tensor<2>,
    seed: u64,
    iteration: u64,
) -> Rollout {
    let covariances = || {
        let values = host(token_covariances(rollout.logp.clone(), advantages.clone(), &rollout.mask)); // [B·T]
        let counted = host(rollout.mask.tensor()).into_iter().enumerate().filter(|(_, one)| *one > 0.0);
        counted.map(|(cell, _)| (cell, f64::from(values[cell]))).collect::<Vec<_>>()
    };
    let of_cells = |cells: &[usize], value: f32, other: f32| {
        let [rows, columns] = rollout.logp.dims();
        let mut values = vec![other; rows * columns];
        cells.iter().for_each(|&cell| values[cell] = value);
        Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &rollout.logp.device()) // [B, T]
    };
    match s.covariance_control {
        CovarianceControl::None => rollout,
        CovarianceControl::Clip => {
            let rng = seeds::stream(seed, Stream::ClippedTokens, iteration);
            let weights = of_cells(&clipped_cells(&covariances(), s, rng), 0.0, 1.0);
            Rollout { token_weights: Some(rollout.weighted(&weights)), ..rollout }
        }
        CovarianceControl::Kl => {
            let kl_coefs = of_cells(&largest_cells(covariances(), s), s.kl_cov_coef as f32, 0.0);
            Rollout { token_kl_coefs: Some(kl_coefs), ..rollout }
        }
    }
}

/// How many of so many tokens are chosen: the share of them, at least one.
fn chosen(s: &RolloutSettings, tokens: usize) -> usize {
    ((s.covariance_share * tokens as f64) as usize).max(1).min(tokens)
}

/// Clip-Cov: some of the cells whose covariance is within the bounds, drawn without replacement.
fn clipped_cells(covariances: &[(usize, f64)], s: &RolloutSettings, mut rng: seeds::Rng) -> Vec<usize> {
    let bounds = s.clip_cov_low..=s.clip_cov_high;
    let within: Vec<usize> = covariances.iter().filter(|(_, x)| bounds.contains(x)).map(|(cell, _)| *cell).collect();
    let count = chosen(s, covariances.len()).min(within.len());
    rand::seq::index::sample(&mut rng, within.len(), count).into_iter().map(|index| within[index]).collect()
}

/// KL-Cov: the cells of the largest covariances; of equal ones the first.
fn largest_cells(mut covariances: Vec<(usize, f64)>, s: &RolloutSettings) -> Vec<usize> {
    let count = chosen(s, covariances.len());
    covariances.sort_by(|a, b| b.1.total_cmp(&a.1));
    covariances.into_iter().take(count).map(|(cell, _)| cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::{ROWS, T, rollout, settings};
    use burn::tensor::Device;
    use duel_objectives::ResponseMask;

    /// Log-probs and advantages of a rollout of which the last response does not count; their covariance is largest in the third
    /// response.
    fn example() -> (Rollout, Tensor<2>) {
        let device = Device::flex();
        let logp = (0..ROWS * T).map(|cell| if cell / T == 2 { -0.5 + 0.1 * (cell % T) as f32 } else { -2.0 });
        let logp = Tensor::from_data(TensorData::new(logp.collect::<Vec<f32>>(), [ROWS, T]), &device);
        let advantages = (0..ROWS * T).map(|cell| if [2, 7].contains(&(cell / T)) { 8.0 } else { 0.0 });
        let advantages = Tensor::from_data(TensorData::new(advantages.collect::<Vec<f32>>(), [ROWS, T]), &device);
        let lengths: Vec<usize> = (0..ROWS).map(|row| if row == 7 { 0 } else { T }).collect();
        let mask = ResponseMask::from_lengths(&lengths, T, &device);
        (Rollout { logp, mask, ..rollout([0.0; ROWS], [0.0; ROWS], 0.1) }, advantages)
    }

    fn settings_of(covariance_control: CovarianceControl, covariance_share: f64) -> RolloutSettings {
        RolloutSettings { covariance_control, covariance_share, kl_cov_coef: 0.5, ..settings() }
    }

    fn controlled(s: &RolloutSettings, seed: u64) -> Rollout {
        let (rollout, advantages) = example();
        control_covariance(rollout, s, &advantages, seed, 0)
    }

    #[test]
    fn the_largest_covariances_are_penalized() {
        // of 28 counted tokens an eighth, the last three of the third response; and at least one
        for (share, cells) in [(0.125, vec![9, 10, 11]), (1e-4, vec![11])] {
            let rollout = controlled(&settings_of(CovarianceControl::Kl, share), 1);
            let coefs = host(rollout.token_kl_coefs.expect("coefficients"));
            let expected: Vec<f32> = (0..ROWS * T).map(|cell| if cells.contains(&cell) { 0.5 } else { 0.0 }).collect();
            assert_eq!(coefs, expected, "{share}");
            assert!(rollout.token_weights.is_none());
        }
        let none = controlled(&settings_of(CovarianceControl::None, 0.5), 1);
        assert!(none.token_kl_coefs.is_none() && none.token_weights.is_none());
    }

    #[test]
    fn some_covariances_within_bounds_lose_their_advantage() {
        // mean log-prob −2 + 1.65/7, mean advantage 8/7: covariances 8.67, 9.36, 10.05 and 10.73
        let s =
            RolloutSettings { clip_cov_low: 9.0, clip_cov_high: 10.5, ..settings_of(CovarianceControl::Clip, 0.04) };
        let dropped = |s: &RolloutSettings, seed| -> Vec<usize> {
            let weights = host(controlled(s, seed).token_weights.expect("weights"));
            (0..ROWS * T).filter(|&cell| weights[cell] == 0.0).collect()
        };
        let draws: Vec<Vec<usize>> = (0..20).map(|seed| dropped(&s, seed)).collect();
        assert!(draws.iter().all(|cells| *cells == [9] || *cells == [10]), "{draws:?}");
        assert!(draws.iter().any(|cells| *cells != draws[0]), "{draws:?}");
        assert_eq!(draws[0], dropped(&s, 0));
        let all = RolloutSettings { covariance_share: 1.0, ..s.clone() };
        assert_eq!(dropped(&all, 0), [9, 10], "no more than are within the bounds");
        let none = RolloutSettings { clip_cov_low: 20.0, clip_cov_high: 30.0, ..s };
        assert_eq!(dropped(&none, 0), Vec::<usize>::new());
    }

    #[test]
    fn other_weights_of_tokens_stay() {
        let (rollout, advantages) = example();
        let half = rollout.logp.zeros_like() + 0.5;
        let s = settings_of(CovarianceControl::Clip, 1.0);
        let s = RolloutSettings { clip_cov_low: 9.0, clip_cov_high: 10.5, ..s };
        let rollout = Rollout { token_weights: Some(half), ..rollout };
        let rollout = control_covariance(rollout, &s, &advantages, 1, 0);
        let weights = host(rollout.token_weights.expect("weights"));
        let expected: Vec<f32> = (0..ROWS * T).map(|cell| if [9, 10].contains(&cell) { 0.0 } else { 0.5 }).collect();
        assert_eq!(weights, expected);
    }
}
