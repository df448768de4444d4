//! Golden values as tensors, and the tolerances of tests against them.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use duel_testing::golden::{close, close_within, numbers, shape};
use serde_json::Value;

/// A tensor's values.
pub fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.try_into_data().expect("readable").iter::<f64>().collect()
}

/// A floating-point type and the tolerances that tests in it use.
#[derive(Debug, Clone, Copy)]
pub struct TestPrecision {
    pub dtype: DType,
    /// Relative, of values.
    pub value: f64,
    /// Relative, of gradients.
    pub gradient: f64,
    /// Machine epsilon.
    pub epsilon: f64,
}

/// The type of training.
pub const F32: TestPrecision =
    TestPrecision { dtype: DType::F32, value: 1e-5, gradient: 1e-4, epsilon: f32::EPSILON as f64 };
/// The type in which the libraries computed the expected values; some gradients went through float32.
pub const F64: TestPrecision = TestPrecision { dtype: DType::F64, value: 1e-10, gradient: 1e-7, epsilon: f64::EPSILON };

impl TestPrecision {
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

    /// Compares values.
    pub fn values<const D: usize>(self, what: &str, actual: Tensor<D>, expected: &Value) {
        close(&format!("{what}, {:?}", self.dtype), &values(actual), &numbers(expected), self.value);
    }

    /// Compares entropies of logits of at most `largest_logit`. Near zero an entropy is a difference of numbers near 1, so that
    /// its bound is absolute there; and a logit itself is only known up to rounding.
    pub fn entropies<const D: usize>(self, what: &str, actual: Tensor<D>, expected: &Value, largest_logit: f64) {
        let relative = self.value.max(4.0 * self.epsilon * largest_logit);
        let absolute = 32.0 * self.epsilon;
        close_within(&format!("{what}, {:?}", self.dtype), &values(actual), &numbers(expected), relative, absolute);
    }

    /// Compares a gradient.
    pub fn gradient<const D: usize>(self, what: &str, actual: Option<Tensor<D>>, expected: &Value) {
        let actual = actual.unwrap_or_else(|| panic!("no gradient of {what}"));
        close(&format!("gradient of {what}, {:?}", self.dtype), &values(actual), &numbers(expected), self.gradient);
    }
}
