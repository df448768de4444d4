//! Tensors on the host: numbers with their shape.

use burn::tensor::Tensor;
use rayon::prelude::*;

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

/// Writes parts one after another, in place of what `flat` holds: each of so many numbers, zeros where there is none.
pub fn concatenate(parts: &[(usize, Option<Vec<f32>>)], flat: &mut Vec<f32>) {
    flat.resize(parts.iter().map(|(count, _)| count).sum(), 0.0);
    let mut rest = flat.as_mut_slice();
    let slices = parts.iter().map(|(count, _)| rest.split_off_mut(..*count).expect("room for every part"));
    let slices: Vec<&mut [f32]> = slices.collect();
    slices.into_par_iter().zip(parts).for_each(|(slice, (_, part))| match part {
        Some(part) => slice.copy_from_slice(part),
        None => slice.fill(0.0),
    });
}

/// A matrix of the given rows and columns, row by row, transposed.
pub fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut result = Vec::with_capacity(values.len()); // a collected `flat_map` would hold up to twice as much
    (0..columns).for_each(|c| result.extend((0..rows).map(|r| values[r * columns + c])));
    result
}
