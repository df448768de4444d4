//! Keys and values of the tokens read so far.

use burn::tensor::{Int, Tensor, TensorData};

/// Keys and values of every block for the tokens read so far, each `[B, G, K, E]`.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    pub(super) layers: Vec<(Tensor<4>, Tensor<4>)>,
    /// Columns read.
    pub(super) columns: usize,
    /// Padded columns of each row.
    pub(super) padding: Option<Vec<usize>>,
}

impl KvCache {
    /// The cache of some rows, in the given order; a row may be taken more than once.
    pub fn select(&self, rows: &[usize]) -> Self {
        let Some((first, _)) = self.layers.first() else { return self.clone() };
        let index: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), &first.device());
        let pick = |x: &Tensor<4>| x.clone().select(0, index.clone());
        Self {
            layers: self.layers.iter().map(|(k, v)| (pick(k), pick(v))).collect(),
            columns: self.columns,
            padding: self.padding.as_ref().map(|padding| rows.iter().map(|&row| padding[row]).collect()),
        }
    }
}
