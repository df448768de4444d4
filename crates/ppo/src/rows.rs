//! Some rows of a rollout's tensors, and their moments.

use burn::tensor::{Int, Tensor, TensorData};
use duel_model::{Responses, weights::host};
use duel_objectives::{ResponseMask, whiten, whiten_keep_mean};
use duel_spec::Normalization;
use std::collections::HashSet;

/// Some rows of a tensor `[B, T]` without gradient, on the autodiff device: `[b, T]`.
pub fn rows_of(x: &Tensor<2>, rows: &[usize]) -> Tensor<2> {
    Tensor::from_inner(x.clone().select(0, index(rows, x)))
}

/// What `read` returns for each block of rows (and for the rows in none), in the order of the rollout: `[B, T]`.
pub fn map_blocks(rollout: &Responses, blocks: &[Vec<usize>], read: impl Fn(&Responses) -> Tensor<2>) -> Tensor<2> {
    let listed: HashSet<usize> = blocks.iter().flatten().copied().collect();
    let rest: Vec<usize> = (0..rollout.len()).filter(|row| !listed.contains(row)).collect();
    let blocks = || blocks.iter().chain(std::iter::once(&rest)).filter(|rows| !rows.is_empty());
    let shuffled = Tensor::cat(blocks().map(|rows| read(&rollout.select(rows))).collect(), 0); // [B, T]
    let mut positions = vec![0; rollout.len()];
    blocks().flatten().enumerate().for_each(|(position, &row)| positions[row] = position);
    shuffled.clone().select(0, index(&positions, &shuffled))
}

/// Row numbers as a tensor on the device of another.
pub fn index(rows: &[usize], like: &Tensor<2>) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), &like.device())
}

/// `[B, T]` over the counted tokens of a rollout.
pub fn normalize(x: Tensor<2>, normalization: Normalization, mask: &ResponseMask) -> Tensor<2> {
    match normalization {
        Normalization::Raw => x,
        Normalization::Scaled => whiten_keep_mean(x, mask),
        Normalization::White => whiten(x, mask),
    }
}

/// Variance over counted tokens.
pub fn variance(x: &Tensor<2>, mask: &ResponseMask) -> f64 {
    let mean = mask.mean(x.clone()).unsqueeze::<2>();
    f64::from(host(mask.mean((x.clone() - mean).square()))[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_variance_is_of_what_counts() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1.0f32, 2.0], [6.0, 99.0]], &device);
        let mask = ResponseMask::from_lengths(&[2, 1], 2, &device);
        assert!((variance(&x, &mask) - 14.0 / 3.0).abs() < 1e-6); // (4 + 1 + 9) / 3
    }
}
