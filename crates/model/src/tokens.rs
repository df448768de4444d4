//! Rows of ids as a model reads them.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Ids `[B, L]`; the first `left[b]` columns of row b are padding: hidden from attention, and not counted in
/// the positions of what follows. Padding on the right needs no mark: nothing that counts can look there.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub ids: Tensor<2, Int>,
    /// `[B]`; `None` where no row is padded on the left.
    pub left_padding: Option<Vec<usize>>,
}

impl Tokens {
    /// Rows of equal or unequal length, padded on the left to the longest.
    pub fn pad_left(rows: &[Vec<u32>], width: usize, pad: u32, device: &Device) -> Self {
        let left: Vec<usize> = rows.iter().map(|row| width - row.len()).collect();
        let ids: Vec<i32> = rows
            .iter()
            .zip(&left)
            .flat_map(|(row, &left)| std::iter::repeat_n(pad, left).chain(row.iter().copied()).map(|id| id as i32))
            .collect();
        Self::with_left_padding(Tensor::from_data(TensorData::new(ids, [rows.len(), width]), device), left)
    }

    /// Ids with their padding.
    pub fn with_left_padding(ids: Tensor<2, Int>, left: Vec<usize>) -> Self {
        Self { ids, left_padding: left.iter().any(|&n| n > 0).then_some(left) }
    }

    /// Some columns; only from the first on where rows are padded.
    pub fn narrow(self, from: usize, columns: usize) -> Self {
        debug_assert!(from == 0 || self.left_padding.is_none(), "the padding stands in the first columns");
        Self { ids: self.ids.narrow(1, from, columns), left_padding: self.left_padding }
    }
}

impl From<Tensor<2, Int>> for Tokens {
    fn from(ids: Tensor<2, Int>) -> Self {
        Self { ids, left_padding: None }
    }
}
