//! Numbers of a parameter that a GGUF file holds otherwise than a Hugging Face file.

use crate::architecture::NormKind;
use crate::config::TransformerConfig;
use crate::host_tensor::HostTensor;
use crate::tensor_names::canonical_name;

/// Gains of 1 + w are stored as what they are.
fn has_offset(config: &TransformerConfig, ours: &str) -> bool {
    let name = canonical_name(ours);
    config.architecture.norm.kind == NormKind::RmsOnePlus && name.contains("norm") && name.ends_with(".weight")
}

/// A tensor of ours as the file holds it.
pub(crate) fn to_file(config: &TransformerConfig, ours: &str, mut tensor: HostTensor) -> HostTensor {
    if has_offset(config, ours) {
        tensor.values.iter_mut().for_each(|w| *w += 1.0);
    }
    tensor
}

/// The inverse of [`to_file`].
pub(crate) fn from_file(config: &TransformerConfig, ours: &str, mut tensor: HostTensor) -> HostTensor {
    if has_offset(config, ours) {
        tensor.values.iter_mut().for_each(|g| *g -= 1.0);
    }
    tensor
}
