//! The one door to devices; features are read here and nowhere else.

use crate::{Error, FrozenNumbers, Result};
use burn::tensor::{Device, Tensor};
use duel_kernels::{FrozenMatrix, Matrix, VECTORS_VARIABLE, VectorSet};
use std::ffi::OsString;
use std::hint::black_box;
use std::time::Instant;

/// Names that `--device` takes.
pub const NAMES: [&str; 4] = ["flex", "ndarray", "wgpu", "cuda"];

/// Opens a device by name, without autodiff.
///
/// # Errors
/// [`Error::UnknownDevice`], [`Error::DeviceNotBuilt`] where the feature is off, and [`Error::NoAdapter`] where the machine has none;
/// [`Error::UnknownVectors`] where `DUEL_VECTORS` names none.
pub fn open(name: &str) -> Result<Device> {
    check_vectors(std::env::var_os(VECTORS_VARIABLE))?;
    if adapters(name).is_some_and(|adapters| adapters.is_empty()) {
        return Err(Error::NoAdapter { name: name.into() });
    }
    match name {
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "burn will drop it; until then it is the second opinion on flex")]
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(burn::tensor::DeviceIndex::Default)),
        known if NAMES.contains(&known) => Err(Error::DeviceNotBuilt { name: name.into() }),
        _ => Err(Error::UnknownDevice { name: name.into() }),
    }
}

/// The adapters that a device of that name could stand on; `None` for those that need none, and for those that are not built in.
pub fn adapters(name: &str) -> Option<Vec<String>> {
    match name {
        #[cfg(feature = "wgpu")]
        "wgpu" => Some(named(burn::tensor::DeviceType::Wgpu)),
        #[cfg(feature = "cuda")]
        "cuda" => Some(named(burn::tensor::DeviceType::Cuda)),
        _ => None,
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn named(kind: burn::tensor::DeviceType) -> Vec<String> {
    let name = |device: &Device| device.identity().map_or_else(|| format!("{device:?}"), |identity| identity.name);
    Device::enumerate(kind).iter().map(name).collect()
}

/// Rows, inputs and outputs of the product of [`product_rate`].
const PRODUCT: [usize; 3] = [256, 512, 512];
/// Repetitions of that product; each takes about half a millisecond.
const PRODUCTS: usize = 20;

/// FLOP/s of one matrix product of `flex` on the threads at hand, the best of twenty in about ten milliseconds; of a frozen matrix
/// where `numbers` are given.
pub fn product_rate(numbers: Option<FrozenNumbers>) -> f64 {
    let [rows, inputs, outputs] = PRODUCT;
    let device = Device::flex();
    let ones = |rows, columns| Tensor::<2>::ones([rows, columns], &device);
    let (x, w) = (ones(rows, inputs), ones(inputs, outputs)); // [N, K], [K, M]
    let values = vec![1.0; inputs * rows.max(outputs)];
    let frozen = numbers.map(|numbers| FrozenMatrix::new(Matrix::rows(&values, outputs), inputs, outputs, numbers));
    let seconds = (0..PRODUCTS).map(|_| {
        let started = Instant::now();
        match &frozen {
            Some(matrix) => drop(black_box(matrix.rows_product(&values[..rows * inputs]))),
            None => drop(black_box(x.clone().matmul(w.clone()))),
        }
        started.elapsed().as_secs_f64()
    });
    2.0 * (rows * inputs * outputs) as f64 / seconds.fold(f64::INFINITY, f64::min)
}

/// The vectors that `flex` computes with on this machine, and whether they are wide.
pub fn vectors() -> (&'static str, bool) {
    let set = duel_kernels::vector_set();
    (set.label(), set.is_fused())
}

/// Whether a limit of the vectors, if there is one, is a name that the kernels know.
fn check_vectors(limit: Option<OsString>) -> Result<()> {
    match limit {
        Some(name) if name.to_str().and_then(VectorSet::named).is_none() => {
            Err(Error::UnknownVectors { name: name.to_string_lossy().into_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_vectors_is_one_of_the_names() {
        assert!(check_vectors(None).is_ok());
        for (name, _) in VectorSet::NAMES {
            assert!(check_vectors(Some(name.into())).is_ok(), "{name}");
        }
        for name in ["", "AVX2", "avx512 "] {
            let error = check_vectors(Some(name.into())).expect_err(name);
            assert!(error.hint().is_some_and(|hint| hint.contains("baseline, avx2, avx512, avx512bf16")), "{name}");
        }
    }
}
