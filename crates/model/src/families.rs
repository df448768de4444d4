//! The model families whose files are read and written: each is one file below, and one line of [`FAMILIES`].

mod arcee;
mod cwm;
mod ernie4_5;
mod exaone4;
mod gemma;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod granite;
mod llama;
mod ministral;
mod mistral;
mod olmo2;
mod olmo3;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod seed_oss;
mod shared;
mod shared_gguf;
mod smollm3;
mod stablelm;
mod starcoder2;
mod vaultgemma;

pub use gpt2::Gpt2;
pub use llama::Llama;
pub use qwen2::Qwen2;

use crate::architecture::QkvLayout;
use crate::config::TransformerConfig;
use crate::family::{Family, GgufFamily};
use crate::file_tensor::{FileTensor, RowOrder};
use crate::tensor_names::{canonical_name, is_linear_weight, translate};
use crate::{Error, Result};
use std::path::Path;

/// All families.
const FAMILIES: &[&Family] = &[
    &gemma::FAMILY,
    &gemma2::FAMILY,
    &gemma3::FAMILY,
    &gpt2::FAMILY,
    &gpt_neo::FAMILY,
    &gpt_neox::FAMILY,
    &granite::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &olmo2::FAMILY,
    &opt::FAMILY,
    &phi::FAMILY,
    &phi3::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &smollm3::FAMILY,
    &arcee::FAMILY,
    &cwm::FAMILY,
    &ernie4_5::FAMILY,
    &exaone4::FAMILY,
    &ministral::FAMILY,
    &olmo3::FAMILY,
    &seed_oss::FAMILY,
    &starcoder2::FAMILY,
    &vaultgemma::FAMILY,
    &stablelm::FAMILY,
];

/// How a family is called in the files that are read and written.
#[derive(Debug, Clone, Copy)]
pub struct FamilyNames {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// Well-known models of it.
    pub models: &'static str,
    /// `general.architecture` of GGUF files, where it is read from them.
    pub gguf: Option<&'static str>,
}

/// All families, by name.
pub fn families() -> impl Iterator<Item = FamilyNames> {
    FAMILIES.iter().map(|family| FamilyNames {
        model_type: family.model_type,
        models: family.models,
        gguf: family.gguf.as_ref().map(|gguf| gguf.architecture),
    })
}

/// The family of a `model_type`.
pub(crate) fn by_model_type(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().copied().find(|family| family.model_type == model_type)
}

/// The family of a GGUF architecture.
pub(crate) fn by_gguf_architecture(architecture: &str) -> Option<&'static GgufFamily> {
    FAMILIES.iter().filter_map(|family| family.gguf.as_ref()).find(|gguf| gguf.architecture == architecture)
}

/// The family of a model.
///
/// # Panics
/// If the architecture names none: [`Gpt2`], [`Llama`] and [`Qwen2`] make architectures.
pub(crate) fn of(config: &TransformerConfig) -> &'static Family {
    let name = config.architecture.family;
    by_model_type(name).unwrap_or_else(|| panic!("no family is called `{name}`"))
}

/// How GGUF files hold a model.
///
/// # Errors
/// [`Error::Unsupported`] for a family that they do not.
pub(crate) fn gguf_of(config: &TransformerConfig, path: &Path) -> Result<&'static GgufFamily> {
    of(config).gguf.as_ref().ok_or_else(|| {
        let (key, value) = ("general.architecture".into(), format!("that of {}", config.architecture.family));
        Error::Unsupported { path: path.into(), key, found: value, accepted: gguf_architectures() }
    })
}

/// The names in `config.json`, in words.
pub(crate) fn model_types() -> String {
    one_of(FAMILIES.iter().map(|family| family.model_type).collect())
}

/// The names in GGUF files, in words.
pub(crate) fn gguf_architectures() -> String {
    let mut names: Vec<&str> = FAMILIES.iter().filter_map(|family| Some(family.gguf.as_ref()?.architecture)).collect();
    names.sort_unstable();
    names.dedup(); // Mistral is called as Llama is
    one_of(names)
}

/// `"a", "b" or "c"`
fn one_of(names: Vec<&str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("\"{name}\"")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

/// `blocks.3.attention.q` as `model.layers.3.self_attn.q_proj`, and so on.
pub(crate) fn hf_stem(config: &TransformerConfig, stem: &str) -> String {
    translate(of(config).tensors, stem)
}

/// Where a Hugging Face file holds one of our parameters, or PEFT's one of an adapter.
pub fn hf_tensor(config: &TransformerConfig, ours: &str) -> FileTensor {
    let ours = canonical_name(ours);
    let (stem, last) = ours.rsplit_once('.').unwrap_or(("", &ours));
    let order = if of(config).interleaved { interleaved_rows(config, stem) } else { RowOrder::Same };
    if let Some(projection) = stem.strip_suffix(".lora") {
        let name = format!("base_model.model.{}.lora_{}.weight", hf_stem(config, projection), last.to_uppercase());
        let order = if last == "b" { order } else { RowOrder::Same };
        return FileTensor { order, ..FileTensor::new(name, true) };
    }
    let kind = if last == "bias" { "bias" } else { "weight" };
    let is_transposed = is_linear_weight(stem, kind) && (stem == "head" || !of(config).inputs_first);
    FileTensor { order, ..FileTensor::new(format!("{}.{kind}", hf_stem(config, stem)), is_transposed) }
}

/// Where a GGUF file holds one of our parameters.
pub(crate) fn gguf_tensor(config: &TransformerConfig, ours: &str) -> FileTensor {
    let ours = canonical_name(ours);
    let (stem, kind) = ours.rsplit_once('.').unwrap_or((&ours, "weight"));
    let gguf = of(config).gguf.as_ref();
    let names = gguf.map_or(crate::tensor_names::GGUF, |gguf| gguf.tensors);
    let order = match config.architecture.fused.qkv {
        Some(QkvLayout::PerHead) if stem.ends_with(".qkv") => RowOrder::ByKind { heads: config.heads },
        _ if gguf.is_some_and(|gguf| gguf.interleaved) => interleaved_rows(config, stem),
        _ => RowOrder::Same,
    };
    FileTensor {
        order,
        ..FileTensor::new(format!("{}.{kind}", translate(&[names], stem)), is_linear_weight(stem, kind))
    }
}

/// The rows of a parameter or of an adapter where queries and keys are stored as neighbouring pairs.
fn interleaved_rows(config: &TransformerConfig, stem: &str) -> RowOrder {
    match stem.trim_end_matches(".lora") {
        stem if stem.ends_with(".q") => RowOrder::Interleaved { heads: config.heads },
        stem if stem.ends_with(".k") => RowOrder::Interleaved { heads: config.key_value_heads() },
        _ => RowOrder::Same,
    }
}
