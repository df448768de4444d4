//! A linear map that may carry a low-rank adapter.

use crate::init::{Init, normal};
use crate::mmap_matrix::MmapMatrix;
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::sync::Arc;

/// `x W + b`, and `+ (α/r) x A B` where an adapter is on.
#[derive(Module, Debug)]
pub struct Projection {
    pub linear: Linear,
    pub lora: Option<Lora>,
    /// The matrix where it stays in its file; `linear` then holds none.
    #[module(skip)]
    mapped: Option<Arc<MmapMatrix>>,
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
        Self { linear, lora: None, mapped: None }
    }

    /// Inputs and outputs.
    pub fn dims(&self) -> [usize; 2] {
        self.mapped.as_ref().map_or_else(|| self.linear.weight.dims(), |mapped| mapped.dims())
    }

    /// The matrix `[in, out]`, decoded where it stays in its file.
    pub fn matrix(&self) -> Tensor<2> {
        let Some(mapped) = &self.mapped else { return self.linear.weight.val() };
        Tensor::from_data(TensorData::new(mapped.values(), mapped.dims()), &self.linear.weight.device())
    }

    /// The matrix where it stays in its file.
    pub(crate) fn mapped(&self) -> Option<&Arc<MmapMatrix>> {
        self.mapped.as_ref()
    }

    /// The map with this matrix, which stays in its file.
    pub(crate) fn on_file(mut self, mapped: MmapMatrix) -> Self {
        let none = Tensor::zeros([1, 1], &self.linear.weight.device());
        self.linear.weight = Param::from_tensor(none);
        self.mapped = Some(Arc::new(mapped));
        self
    }

    /// `[B, L, in]` to `[B, L, out]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = match &self.mapped {
            None => self.linear.forward(x.clone()),
            Some(_) => {
                let y = x.clone().matmul(self.matrix().unsqueeze());
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
        if self.mapped.is_some() {
            self.linear.weight = Param::from_tensor(self.matrix());
            self.mapped = None;
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
