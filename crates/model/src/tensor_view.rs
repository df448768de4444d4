//! The values of a tensor, where they are.

use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

/// The values of a tensor of f32 on the device `flex`, where they are: nothing is copied.
#[derive(Debug)]
pub struct TensorView(FlexTensor);

impl TensorView {
    /// `None` for any other tensor.
    pub fn new<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        match tensor.into_dispatch().kind {
            DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Some(Self(tensor.to_contiguous())),
            DispatchTensorKind::Flex(tensor @ BackendTensor::Autodiff(_)) => {
                Some(Self(tensor.autodiff_inner().to_contiguous()))
            }
            _ => None,
        }
    }

    pub fn values(&self) -> &[f32] {
        self.0.as_slice().expect("contiguous f32")
    }
}
