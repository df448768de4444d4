//! The one door to devices; features are read here and nowhere else.

use crate::{Error, Result};
use burn::tensor::Device;
use duel_kernels::{VECTORS_VARIABLE, VectorSet};
use std::ffi::OsString;

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
