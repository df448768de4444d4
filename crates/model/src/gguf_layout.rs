//! How the numbers of a parameter lie in a GGUF file, where they lie otherwise than in a Hugging Face file.

use crate::architecture::{NormKind, QkvLayout};
use crate::config::TransformerConfig;
use crate::families::interleaved_heads;
use crate::host_tensor::HostTensor;
use crate::rope_layout::{reorder_rows, to_half_split, to_interleaved};
use crate::tensor_names::canonical_name;

/// Gains of 1 + w are stored as what they are.
fn has_offset(config: &TransformerConfig, ours: &str) -> bool {
    let name = canonical_name(ours);
    config.architecture.norm.kind == NormKind::RmsOnePlus && name.contains("norm") && name.ends_with(".weight")
}

/// Heads whose queries, keys and values stand together, where the file has all queries first.
fn heads_side_by_side(config: &TransformerConfig, ours: &str) -> Option<usize> {
    let is_qkv = canonical_name(ours).contains(".qkv.") && config.architecture.fused.qkv == Some(QkvLayout::PerHead);
    is_qkv.then_some(config.heads)
}

/// A tensor of ours, in the file's orientation, as the file holds it.
pub(crate) fn to_file(config: &TransformerConfig, ours: &str, mut tensor: HostTensor) -> HostTensor {
    let columns = tensor.shape.get(1).copied().unwrap_or(1);
    if let Some(heads) = interleaved_heads(config, ours) {
        tensor.values = to_interleaved(&tensor.values, heads, columns);
    }
    if let Some(heads) = heads_side_by_side(config, ours) {
        let e = tensor.values.len() / columns / heads / 3;
        // part, head, unit from head, part, unit
        let from = |row: usize| (row / e % heads) * 3 * e + row / (heads * e) * e + row % e;
        tensor.values = reorder_rows(&tensor.values, columns, from);
    }
    if has_offset(config, ours) {
        tensor.values.iter_mut().for_each(|w| *w += 1.0);
    }
    tensor
}

/// The inverse of [`to_file`].
pub(crate) fn from_file(config: &TransformerConfig, ours: &str, mut tensor: HostTensor) -> HostTensor {
    let columns = tensor.shape.get(1).copied().unwrap_or(1);
    if let Some(heads) = interleaved_heads(config, ours) {
        tensor.values = to_half_split(&tensor.values, heads, columns);
    }
    if let Some(heads) = heads_side_by_side(config, ours) {
        let e = tensor.values.len() / columns / heads / 3;
        let from = |row: usize| (row / e % 3) * heads * e + row / (3 * e) * e + row % e;
        tensor.values = reorder_rows(&tensor.values, columns, from);
    }
    if has_offset(config, ours) {
        tensor.values.iter_mut().for_each(|g| *g -= 1.0);
    }
    tensor
}
