//! Weights of the tokens of a rollout, which multiply their advantages. No gradient.

use crate::mask::ResponseMask;
use burn::tensor::{Tensor, TensorData};

/// 1 on the counted tokens whose entropy is not below the quantile 1 − `share` of all counted tokens (interpolated linearly), 0
/// on all others.
///
/// # Shapes
/// `entropies`: `[B, T]`, nats; returns `[B, T]`.
/// # Source
/// Wang et al. 2025 (Beyond the 80/20 rule); trl `get_high_entropy_mask`.
pub fn high_entropy_tokens(entropies: Tensor<2>, share: f64, mask: &ResponseMask) -> Tensor<2> {
    let counted: Vec<bool> = numbers(mask.tensor()).into_iter().map(|one| one > 0.0).collect();
    let all = numbers(entropies.clone());
    let mut sorted: Vec<f64> = all.iter().zip(&counted).filter(|(_, counted)| **counted).map(|(x, _)| *x).collect();
    sorted.sort_by(f64::total_cmp);
    let threshold = quantile(&sorted, 1.0 - share);
    let ones = all.iter().zip(counted).map(|(x, counted)| f64::from(counted && *x >= threshold)).collect();
    Tensor::from_data(TensorData::new::<f64, _>(ones, entropies.dims()), (&entropies.device(), entropies.dtype()))
}

/// `(log π(y_t) − mean) (A_t − mean)`, means over the counted tokens: what entropy falls by.
///
/// # Shapes
/// all `[B, T]`, 0 where no token counts.
/// # Source
/// Cui et al. 2025 (The entropy mechanism), eq. 10.
pub fn token_covariances(logp: Tensor<2>, advantages: Tensor<2>, mask: &ResponseMask) -> Tensor<2> {
    let centred = |x: Tensor<2>| x.clone() - mask.mean(x).unsqueeze::<2>(); // [B, T]
    mask.apply(centred(logp) * centred(advantages))
}

/// Of sorted numbers, between the two nearest; infinite of none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::INFINITY };
    let position = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    below + (above - below) * position.fract()
}

fn numbers(x: Tensor<2>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn covariances_by_hand() {
        let device = Device::flex();
        let mask = ResponseMask::from_lengths(&[2, 1], 2, &device);
        let logp = Tensor::<2>::from_data([[-1.0f32, -2.0], [-3.0, 9.0]], &device);
        let advantages = Tensor::<2>::from_data([[3.0f32, 0.0], [-3.0, 9.0]], &device);
        assert_eq!(numbers(token_covariances(logp, advantages, &mask)), [3.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn the_highest_entropies_count() {
        let device = Device::flex();
        let mask = ResponseMask::from_lengths(&[3, 2, 0], 3, &device);
        let entropies = Tensor::<2>::from_data([[0.5f32, 2.0, 1.0], [1.5, 0.0, 9.0], [9.0, 9.0, 9.0]], &device);
        let ones = |share| numbers(high_entropy_tokens(entropies.clone(), share, &mask));
        // of 0, .5, 1, 1.5 and 2 those from 1.1, from 1 and from 2
        assert_eq!(ones(0.45), [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(ones(0.5), [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(ones(0.0), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let none = ResponseMask::from_lengths(&[0, 0, 0], 3, &device);
        assert_eq!(numbers(high_entropy_tokens(entropies, 0.5, &none)), [0.0; 9]);
    }
}
