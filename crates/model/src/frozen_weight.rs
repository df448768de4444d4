//! Matrices that are not trained and are no tensors: left in their file, or in memory with fewer bits.

use crate::host_tensor::{host, transposed};
use crate::mmap_matrix::MmapMatrix;
use crate::tensor_view::TensorView;
use burn::tensor::Tensor;
use duel_kernels::{FrozenMatrix, FrozenNumbers, LinearMatrix, Matrix, PooledBuffer};
use std::sync::Arc;

/// A matrix that is not trained and is no tensor.
#[derive(Debug, Clone)]
pub enum FrozenWeight {
    /// In its file, decoded each time it is read, and then rounded where `numbers` are given.
    File { matrix: Arc<MmapMatrix>, numbers: Option<FrozenNumbers> },
    /// In memory, rounded.
    Memory(Arc<FrozenMatrix>),
}

/// What a [`FrozenWeight`] gives for products.
pub enum FrozenRead {
    /// `[out, in]`
    F32(PooledBuffer),
    Rounded(Arc<FrozenMatrix>),
}

impl FrozenWeight {
    /// Inputs and outputs.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Self::File { matrix, .. } => matrix.dims(),
            Self::Memory(matrix) => [matrix.inputs(), matrix.outputs()],
        }
    }

    /// Ready for products.
    pub fn read(&self) -> FrozenRead {
        match self {
            Self::File { matrix, numbers: None } => FrozenRead::F32(matrix.read()),
            Self::File { matrix, numbers: Some(numbers) } => {
                let [inputs, outputs] = matrix.dims();
                let values = matrix.read(); // [out, in]
                let turned = Matrix::rows(&values, inputs).t();
                FrozenRead::Rounded(Arc::new(FrozenMatrix::new(turned, inputs, outputs, *numbers)))
            }
            Self::Memory(matrix) => FrozenRead::Rounded(matrix.clone()),
        }
    }

    /// The matrix `[in, out]`, row by row, as products read it.
    pub fn values(&self) -> Vec<f32> {
        let [inputs, outputs] = self.dims();
        match self.read() {
            FrozenRead::F32(values) => transposed(&values, outputs, inputs),
            FrozenRead::Rounded(matrix) => matrix.values(),
        }
    }

    /// The same matrix rounded, where it is.
    pub fn rounded(self, numbers: FrozenNumbers) -> Self {
        match self {
            Self::File { matrix, .. } => Self::File { matrix, numbers: Some(numbers) },
            Self::Memory(matrix) => Self::Memory(matrix),
        }
    }
}

/// A matrix `[in, out]` rounded; `is_by_output`: the tensor is `[out, in]`.
pub fn rounded_tensor(tensor: Tensor<2>, is_by_output: bool, numbers: FrozenNumbers) -> Arc<FrozenMatrix> {
    let [rows, columns] = tensor.dims();
    let round = |values: &[f32]| match is_by_output {
        true => FrozenMatrix::new(Matrix::rows(values, columns).t(), columns, rows, numbers),
        false => FrozenMatrix::new(Matrix::rows(values, columns), rows, columns, numbers),
    };
    Arc::new(match TensorView::new(tensor.clone()) {
        Some(view) => round(view.values()),
        None => round(&host(tensor)),
    })
}

impl FrozenRead {
    pub fn matrix(&self) -> LinearMatrix<'_> {
        match self {
            Self::F32(values) => LinearMatrix::F32 { values, turned: true },
            Self::Rounded(matrix) => LinearMatrix::Frozen(matrix),
        }
    }
}
