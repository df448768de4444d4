//! What a model family is made of: how its files describe a model, and how they name its tensors.

use crate::Result;
use crate::architecture::Architecture;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::gguf_header::HeaderValue;
use crate::header_reader::HeaderReader;
use crate::tensor_names::TensorNames;
use serde_json::Value;
use std::path::Path;

/// Keys of a GGUF header with their values.
pub type HeaderEntries = Vec<(&'static str, HeaderValue)>;

/// A model family: how its files describe a model, and how they name its tensors.
#[derive(Debug)]
pub(crate) struct Family {
    /// `model_type` of its `config.json`, and [`Architecture::family`].
    pub model_type: &'static str,
    /// Well-known models of it.
    pub models: &'static str,
    /// Reads `config.json`.
    pub read: fn(&ConfigReader) -> Result<TransformerConfig>,
    /// Writes it as transformers does.
    pub write: fn(&TransformerConfig) -> Value,
    /// Tensors of Hugging Face files: the first table that has a name counts.
    pub tensors: &'static [TensorNames],
    /// Whether files hold the matrices of blocks as `[in, out]`, as we do, rather than `[out, in]`.
    pub inputs_first: bool,
    /// Whether the rows of queries and keys are stored as neighbouring pairs for the rotary positions.
    pub interleaved: bool,
    /// How GGUF files hold it, if they do.
    pub gguf: Option<GgufFamily>,
}

/// A family in GGUF files, whose matrices are all `[out, in]`.
#[derive(Debug)]
pub(crate) struct GgufFamily {
    /// `general.architecture`, with which the names of its settings begin.
    pub architecture: &'static str,
    /// Settings whose meaning is known, without the architecture's name: another is refused.
    pub known: &'static [&'static [&'static str]],
    /// Reads what the sizes `width` and `heads` leave open.
    pub read: fn(&HeaderReader<'_>, usize, usize) -> Result<Architecture>,
    /// Settings besides the sizes, without the architecture's name.
    pub write: fn(&TransformerConfig, &Path) -> Result<HeaderEntries>,
    pub tensors: TensorNames,
    /// Whether the rows of queries and keys are stored as neighbouring pairs for the rotary positions.
    pub interleaved: bool,
    /// The factor of scores that llama.cpp takes whatever the file says; `None`: what the file says, or 1/√E.
    pub usual_scale: Option<fn(&TransformerConfig) -> f64>,
}
