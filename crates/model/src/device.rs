//! The one door to devices; features are read here and nowhere else.

use crate::{Error, Result};
use burn::tensor::Device;

/// Names that `--device` takes.
pub const NAMES: [&str; 4] = ["flex", "ndarray", "wgpu", "cuda"];

/// Opens a device by name, without autodiff.
///
/// # Errors
/// [`Error::UnknownDevice`], [`Error::DeviceNotBuilt`] where the feature is off, and [`Error::NoAdapter`] where the machine has none.
pub fn open(name: &str) -> Result<Device> {
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

/// The widest vectors that `flex` computes with on this machine.
pub fn vectors() -> &'static str {
    duel_kernels::vectors()
}
