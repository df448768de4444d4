//! Golden values as tensors, and how close to them a test must come.
#![allow(dead_code, reason = "each crate's tests take what they need")]

use crate::golden::{close, close_within, numbers, shape};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde_json::Value;

/// A tensor's values.
pub fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.try_into_data().expect("readable").iter::<f64>().collect()
}

/// How precisely a test computes, and what that lets it demand.
#[derive(Debug, Clone, Copy)]
pub struct Precision {
    pub dtype: DType,
    /// Relative, of values.
    pub value: f64,
    /// Relative, of gradients.
    pub gradient: f64,
    /// The distance from 1 to the next number.
    pub epsilon: f64,
}

/// As trained.
pub const F32: Precision = Precision { dtype: DType::F32, value: 1e-5, gradient: 1e-4, epsilon: f32::EPSILON as f64 };
/// As the libraries computed the expected values; some gradients went through float32.
pub const F64: Precision = Precision { dtype: DType::F64, value: 1e-10, gradient: 1e-7, epsilon: f64::EPSILON };

impl Precision {
    /// A tensor of nested lists on the autodiff device.
    pub fn tensor<const D: usize>(self, v: &Value) -> Tensor<D> {
        let data = TensorData::new(numbers(v), shape(v));
        Tensor::from_data(data, (&Device::flex().autodiff(), self.dtype))
    }

    /// Ids of nested lists on the autodiff device.
    pub fn ids<const D: usize>(self, v: &Value) -> Tensor<D, Int> {
        let data = TensorData::new(numbers(v).iter().map(|x| *x as i32).collect::<Vec<_>>(), shape(v));
        Tensor::from_data(data, &Device::flex().autodiff())
    }

    /// Found against expected values.
    pub fn values<const D: usize>(self, what: &str, found: Tensor<D>, expected: &Value) {
        close(&format!("{what}, {:?}", self.dtype), &values(found), &numbers(expected), self.value);
    }

    /// Found against expected entropies of logits up to so large. Near zero an entropy is what is left of numbers near 1,
    /// so that its bound is absolute there; and a logit is itself known to its rounding alone.
    pub fn entropies<const D: usize>(self, what: &str, found: Tensor<D>, expected: &Value, largest_logit: f64) {
        let relative = self.value.max(4.0 * self.epsilon * largest_logit);
        let absolute = 32.0 * self.epsilon;
        close_within(&format!("{what}, {:?}", self.dtype), &values(found), &numbers(expected), relative, absolute);
    }

    /// A found gradient against the expected one.
    pub fn gradient<const D: usize>(self, what: &str, found: Option<Tensor<D>>, expected: &Value) {
        let found = found.unwrap_or_else(|| panic!("no gradient of {what}"));
        close(&format!("gradient of {what}, {:?}", self.dtype), &values(found), &numbers(expected), self.gradient);
    }
}
