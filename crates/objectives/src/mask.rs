//! Which response tokens count: 1 up to and including the first EOS, 0 after; of several turns, the same of those that count.

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// What a loss is a mean over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// The counted tokens of the batch.
    #[default]
    Tokens,
    /// The responses that count, each the mean of its tokens.
    Responses,
    /// The responses that count, each the sum of its tokens divided by a constant.
    Sums { per: usize },
}

/// `[B, T]`, 1 = the token counts. Every mean over tokens goes through [`ResponseMask::mean`], every loss of tokens
/// through [`ResponseMask::average`].
#[derive(Debug, Clone)]
pub struct ResponseMask {
    ones: Tensor<2>,
    average: Reduction,
}

impl ResponseMask {
    /// From the number of counted tokens of each row.
    pub fn from_lengths(lengths: &[usize], tokens: usize, device: &Device) -> Self {
        let counted = lengths.iter().flat_map(|&n| (0..tokens).map(move |t| t < n)).collect();
        Self::from_counted(counted, tokens, device) // [B, T]
    }

    /// From whether each token counts, `B · T` of them.
    pub fn from_counted(counted: Vec<bool>, tokens: usize, device: &Device) -> Self {
        let rows = counted.len() / tokens;
        let cells: Vec<f32> = counted.into_iter().map(f32::from).collect();
        Self::from_tensor(Tensor::from_data(TensorData::new(cells, [rows, tokens]), device)) // [B, T]
    }

    /// From ones and zeros that are already a tensor.
    pub fn from_tensor(ones: Tensor<2>) -> Self {
        Self { ones, average: Reduction::Tokens }
    }

    /// The same mask under which losses are another average.
    pub fn averaging(self, average: Reduction) -> Self {
        Self { average, ..self }
    }

    /// What losses are a mean over.
    pub fn reduction(&self) -> Reduction {
        self.average
    }

    /// The ones and zeros, `[B, T]`.
    pub fn tensor(&self) -> Tensor<2> {
        self.ones.clone()
    }

    /// `x` on counted tokens, 0 elsewhere.
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        x * self.tensor() // [B, T]
    }

    /// Mean of `x` over all counted tokens of the batch, `[1]`; 0 if none counts.
    pub fn mean(&self, x: Tensor<2>) -> Tensor<1> {
        self.apply(x).sum() / self.ones.clone().sum().clamp_min(1.0)
    }

    /// `x` as a loss: its mean over tokens, or over responses, `[1]`; 0 if none counts.
    pub fn average(&self, x: Tensor<2>) -> Tensor<1> {
        match self.average {
            Reduction::Tokens => self.mean(x),
            Reduction::Responses => {
                let means = self.row_sums(x) / self.lengths().clamp_min(1.0); // [B]
                means.sum() / self.weight().clamp_min(1.0)
            }
            Reduction::Sums { per } => self.apply(x).sum() / (self.weight().clamp_min(1.0) * per as f64),
        }
    }

    /// How many tokens or responses [`average`](Self::average) is over, `[1]`.
    pub fn weight(&self) -> Tensor<1> {
        match self.average {
            Reduction::Tokens => self.ones.clone().sum(),
            Reduction::Responses | Reduction::Sums { .. } => self.lengths().clamp_max(1.0).sum(),
        }
    }

    /// Share of the counted tokens on which something holds, `[1]`, without gradient.
    pub fn share(&self, holds: Tensor<2, Bool>) -> Tensor<1> {
        self.mean(self.ones.zeros_like().mask_fill(holds, 1.0)).detach()
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
        let tokens = self.ones.dims()[1];
        let end = self.tensor().narrow(1, 0, 1).zeros_like(); // [B, 1]
        self.tensor() - Tensor::cat(vec![self.tensor().narrow(1, 1, tokens - 1), end], 1)
    }

    /// The mask with other rows, or on another device.
    pub fn map(self, f: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        Self { ones: f(self.ones), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_mean_over_tokens_or_over_responses() {
        let device = Device::flex();
        let x = Tensor::<2>::from_data([[1.0f32, 2.0, 9.0], [6.0, 9.0, 9.0], [9.0, 9.0, 9.0]], &device);
        let average_over = |average| {
            let mask = ResponseMask::from_lengths(&[2, 1, 0], 3, &device).averaging(average);
            mask.average(x.clone()).into_data().try_to_vec::<f32>().expect("f32")[0]
        };
        assert_eq!(average_over(Reduction::Tokens), 3.0); // (1 + 2 + 6) / 3
        assert_eq!(average_over(Reduction::Responses), 3.75); // (1.5 + 6) / 2: the last has no token
        assert_eq!(average_over(Reduction::Sums { per: 1 }), 4.5); // (1 + 2 + 6) / 2
        assert_eq!(average_over(Reduction::Sums { per: 3 }), 1.5);
    }
}
