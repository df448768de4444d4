//! A linear map that may carry a low-rank adapter.

use crate::frozen_weight::{FrozenRead, FrozenWeight, rounded_tensor};
use crate::fused;
use crate::init::{Init, normal};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};
use duel_kernels::FrozenNumbers;

/// `x W + b`, and `+ (α/r) x A B` where an adapter is on.
#[derive(Module, Debug)]
pub struct Projection {
    pub linear: Linear,
    pub lora: Option<Lora>,
    /// The matrix where it stays in its file or is rounded; `linear` then holds none.
    #[module(skip)]
    frozen: Option<FrozenWeight>,
}

/// A low-rank change of a matrix. Hu et al. 2021, eq. 3.
#[derive(Module, Debug)]
pub struct Lora {
    /// `[in, r]`
    pub a: Param<Tensor<2>>,
    /// `[r, out]`, zero at the start: the adapter then changes nothing.
    pub b: Param<Tensor<2>>,
    /// `α/r`
    pub scale: f64,
}

impl Projection {
    /// Normal weights of the given spread, and a bias of zeros where there is one.
    pub(crate) fn new(
        inputs: usize,
        outputs: usize,
        bias: bool,
        std: f64,
        start: &mut Init<'_>,
        device: &Device,
    ) -> Self {
        let mut linear = LinearConfig::new(inputs, outputs).with_bias(bias).init(device);
        linear.weight = normal([inputs, outputs], std, start, device);
        if bias {
            linear.bias = Some(Param::from_tensor(Tensor::zeros([outputs], device)));
        }
        Self { linear, lora: None, frozen: None }
    }

    /// Inputs and outputs.
    pub fn dims(&self) -> [usize; 2] {
        self.frozen.as_ref().map_or_else(|| self.linear.weight.dims(), FrozenWeight::dims)
    }

    /// The matrix `[in, out]`, decoded where it is no tensor.
    pub fn matrix(&self) -> Tensor<2> {
        let Some(frozen) = &self.frozen else { return self.linear.weight.val() };
        Tensor::from_data(TensorData::new(frozen.values(), frozen.dims()), &self.linear.weight.device())
    }

    /// The matrix where it is no tensor.
    pub(crate) fn frozen(&self) -> Option<&FrozenWeight> {
        self.frozen.as_ref()
    }

    /// The map with this matrix, which is no tensor.
    pub(crate) fn with_frozen(mut self, frozen: FrozenWeight) -> Self {
        let none = Tensor::zeros([1, 1], &self.linear.weight.device());
        self.linear.weight = Param::from_tensor(none);
        self.frozen = Some(frozen);
        self
    }

    /// The map with its matrix rounded, no longer to be trained; one that stays in its file is rounded whenever it is read.
    pub(crate) fn rounded(mut self, numbers: FrozenNumbers) -> Self {
        let frozen = match self.frozen.take() {
            Some(frozen) => frozen.rounded(numbers),
            None => FrozenWeight::Memory(rounded_tensor(self.linear.weight.val(), false, numbers)),
        };
        self.with_frozen(frozen)
    }

    /// `[B, L, in]` to `[B, L, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = match &self.frozen {
            None => self.linear.forward(x.clone()),
            Some(frozen) => {
                let y = match frozen.read() {
                    FrozenRead::Rounded(matrix) if fused::is_supported(&x) => fused::frozen_product(x.clone(), matrix),
                    _ => x.clone().matmul(self.matrix().unsqueeze()),
                };
                match &self.linear.bias {
                    Some(bias) => y + bias.val().unsqueeze(),
                    None => y,
                }
            }
        };
        match &self.lora {
            Some(lora) => {
                let [b, l, d] = x.dims();
                let low = x.reshape([b * l, d]).matmul(lora.a.val()); // [B·L, r]
                let out = y.dims()[2];
                y + (low.matmul(lora.b.val()) * lora.scale).reshape([b, l, out])
            }
            None => y,
        }
    }

    /// Puts an adapter on.
    pub fn with_lora(mut self, lora: Lora) -> Self {
        self.lora = Some(lora);
        self
    }

    /// The same map with the adapter worked into the matrix, which is in memory.
    pub fn merge_lora(mut self) -> Self {
        if self.frozen.is_some() {
            self.linear.weight = Param::from_tensor(self.matrix());
            self.frozen = None;
        }
        if let Some(lora) = self.lora.take() {
            // rounded once, at the end
            let wide = |x: Tensor<2>| x.cast(DType::F64);
            let change = wide(lora.a.val()).matmul(wide(lora.b.val())) * lora.scale; // [in, out]
            self.linear.weight = self.linear.weight.map(|w| {
                let dtype = w.dtype();
                (wide(w) + change.clone()).cast(dtype)
            });
        }
        self
    }
}
