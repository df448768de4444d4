//! The one door to devices; features are read here and nowhere else.

use crate::{Error, Result};
use burn::tensor::Device;

/// Names that `--device` takes.
pub const NAMES: [&str; 3] = ["flex", "ndarray", "wgpu"];

/// Opens a device by name, without autodiff.
///
/// # Errors
/// [`Error::UnknownDevice`], and [`Error::DeviceNotBuilt`] where the feature is off.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "burn will drop it; until then it is the second opinion on flex")]
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        known if NAMES.contains(&known) => Err(Error::DeviceNotBuilt { name: name.into() }),
        _ => Err(Error::UnknownDevice { name: name.into() }),
    }
}

/// The widest vectors that `flex` computes with on this machine.
pub fn vectors() -> &'static str {
    duel_kernels::vectors()
}
