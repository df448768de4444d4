//! The embedding of tokens.

use crate::frozen_weight::rounded_tensor;
use burn::module::{Module, Param};
use burn::tensor::module::embedding;
use burn::tensor::{Int, Tensor, TensorData};
use duel_kernels::{FrozenMatrix, FrozenNumbers};
use std::sync::Arc;

/// A vector for each token.
#[derive(Module, Debug)]
pub struct TokenEmbedding {
    /// `[V, D]`
    pub weight: Param<Tensor<2>>,
    /// `[D, V]`, where it is rounded; `weight` then holds nothing.
    #[module(skip)]
    frozen: Option<Arc<FrozenMatrix>>,
}

impl TokenEmbedding {
    pub fn new(weight: Param<Tensor<2>>) -> Self {
        Self { weight, frozen: None }
    }

    /// Tokens and width.
    pub fn dims(&self) -> [usize; 2] {
        self.frozen.as_ref().map_or_else(|| self.weight.dims(), |matrix| [matrix.outputs(), matrix.inputs()])
    }

    /// The matrix `[D, V]` where it is rounded.
    pub fn frozen(&self) -> Option<&Arc<FrozenMatrix>> {
        self.frozen.as_ref()
    }

    /// `[V, D]`
    pub fn matrix(&self) -> Tensor<2> {
        let Some(matrix) = &self.frozen else { return self.weight.val() };
        let [tokens, width] = self.dims();
        let turned = TensorData::new(matrix.values(), [width, tokens]);
        Tensor::<2>::from_data(turned, &self.weight.device()).transpose()
    }

    /// `[B, L]` to `[B, L, D]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let Some(matrix) = &self.frozen else { return embedding(self.weight.val(), ids) };
        let ([b, l], [_, width]) = (ids.dims(), self.dims());
        let mut rows = vec![0f32; b * l * width];
        for (id, row) in ids.into_data().iter::<i32>().zip(rows.chunks_exact_mut(width.max(1))) {
            matrix.add_column(id as usize, 1.0, row);
        }
        Tensor::from_data(TensorData::new(rows, [b, l, width]), &self.weight.device())
    }

    /// The same embedding rounded, no longer to be trained.
    pub fn rounded(mut self, numbers: FrozenNumbers) -> Self {
        if self.frozen.is_none() {
            let matrix = rounded_tensor(self.weight.val(), true, numbers);
            self = self.with_frozen(matrix);
        }
        self
    }

    /// The embedding with this matrix `[D, V]`, no longer to be trained.
    pub fn with_frozen(mut self, matrix: Arc<FrozenMatrix>) -> Self {
        self.weight = Param::from_tensor(Tensor::zeros([1, 1], &self.weight.device()));
        self.frozen = Some(matrix);
        self
    }

    /// The same embedding as a tensor.
    pub fn in_memory(mut self) -> Self {
        if self.frozen.is_some() {
            self.weight = Param::from_tensor(self.matrix());
            self.frozen = None;
        }
        self
    }
}
