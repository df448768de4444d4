//! Which response tokens count: 1 up to and including the first EOS, 0 after.

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// `[B, T]`, 1 = the token counts. Every mean over tokens goes through [`ResponseMask::mean`].
#[derive(Debug, Clone)]
pub struct ResponseMask(Tensor<2>);

impl ResponseMask {
    /// From the number of counted tokens of each row.
    pub fn from_lengths(lengths: &[usize], tokens: usize, device: &Device) -> Self {
        let cells = lengths.iter().flat_map(|&n| (0..tokens).map(move |t| f32::from(t < n))).collect::<Vec<f32>>();
        Self(Tensor::from_data(TensorData::new(cells, [lengths.len(), tokens]), device)) // [B, T]
    }

    /// From ones and zeros that are already a tensor.
    pub fn from_tensor(ones: Tensor<2>) -> Self {
        Self(ones)
    }

    /// The ones and zeros, `[B, T]`.
    pub fn tensor(&self) -> Tensor<2> {
        self.0.clone()
    }

    /// `x` on counted tokens, 0 elsewhere.
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        x * self.tensor() // [B, T]
    }

    /// Mean of `x` over all counted tokens of the batch, `[1]`; 0 if none counts.
    pub fn mean(&self, x: Tensor<2>) -> Tensor<1> {
        self.apply(x).sum() / self.0.clone().sum().clamp_min(1.0)
    }

    /// Share of the counted tokens on which something holds, `[1]`, without gradient.
    pub fn share(&self, holds: Tensor<2, Bool>) -> Tensor<1> {
        self.mean(self.0.zeros_like().mask_fill(holds, 1.0)).detach()
    }

    /// Sum of `x` over each row's counted tokens, `[B]`.
    pub fn row_sums(&self, x: Tensor<2>) -> Tensor<1> {
        self.apply(x).sum_dim(1).squeeze_dim::<1>(1)
    }

    /// Counted tokens of each row, `[B]`.
    pub fn lengths(&self) -> Tensor<1> {
        self.tensor().sum_dim(1).squeeze_dim::<1>(1)
    }

    /// 1 on each row's last counted token, 0 elsewhere, `[B, T]`.
    pub fn last(&self) -> Tensor<2> {
        let tokens = self.0.dims()[1];
        let end = self.tensor().narrow(1, 0, 1).zeros_like(); // [B, 1]
        self.tensor() - Tensor::cat(vec![self.tensor().narrow(1, 1, tokens - 1), end], 1)
    }

    /// Some rows of the mask.
    pub fn select(&self, rows: Tensor<1, burn::tensor::Int>) -> Self {
        Self(self.tensor().select(0, rows))
    }
}
