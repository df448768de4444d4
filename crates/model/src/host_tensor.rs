//! Tensors on the host: numbers with their shape.

use burn::tensor::Tensor;

/// One parameter on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// A float tensor's values on the host.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("all models are f32")
}

/// Appends a float tensor's values.
pub fn append<const D: usize>(tensor: Tensor<D>, to: &mut Vec<f32>) {
    to.extend_from_slice(tensor.into_data().as_slice().expect("all models are f32"));
}

/// A matrix of the given rows and columns, row by row, transposed.
pub fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut result = Vec::with_capacity(values.len()); // a collected `flat_map` would hold up to twice as much
    (0..columns).for_each(|c| result.extend((0..rows).map(|r| values[r * columns + c])));
    result
}
