//! What can go wrong between files and tensors.

use duel_kernels::VectorSet;
use std::path::PathBuf;

/// A device or a weight file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unknown device `{name}`")]
    UnknownDevice { name: String },
    #[error("this build has no `{name}` device")]
    DeviceNotBuilt { name: String },
    #[error("no adapter for `{name}` was found on this machine")]
    NoAdapter { name: String },
    #[error("the environment variable DUEL_VECTORS is `{name}`, which names no vector instructions")]
    UnknownVectors { name: String },
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to write `{}`", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("`{}` is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("the weights do not fit the model: `{name}` has shape {found:?}, expected {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("the weights lack `{name}`")]
    Lacking { name: String },
    #[error("`{}` holds `{name}`, which the model has no place for", path.display())]
    Foreign { path: PathBuf, name: String },
    #[error("sequences of {asked} tokens do not fit the model's context of {context}")]
    TooLong { asked: usize, context: usize },
    #[error("`{}` asks for something that is not supported: `{key}` is {found}", path.display())]
    Unsupported { path: PathBuf, key: String, found: String, accepted: String },
    #[error("a model with `{choice}` = {value} is described, which is not computed yet")]
    NotComputed { choice: &'static str, value: String },
    #[error(
        "the tokenizer `{}` has {count} ids for which the model has no embedding, of which there are {rows}: {}",
        path.display(), few(first, *count)
    )]
    BeyondEmbedding { path: PathBuf, rows: usize, count: usize, first: Vec<(u32, String)> },
    #[error(
        "`{}` is one of {count} files that make up a model, of which there are missing: {}", path.display(), names(missing)
    )]
    MissingParts { path: PathBuf, count: usize, missing: Vec<PathBuf> },
    #[error("`{}` is a pointer of Git LFS, which stands for a file that was not fetched", path.display())]
    LfsPointer { path: PathBuf },
    #[error("`{}` was changed while it was in use: {what}", path.display())]
    Changed { path: PathBuf, what: String },
}

/// The first of some paths.
fn names(paths: &[PathBuf]) -> String {
    const NAMED: usize = 5;
    let named: Vec<String> = paths.iter().take(NAMED).map(|path| format!("`{}`", path.display())).collect();
    format!("{}{}", named.join(", "), if paths.len() > NAMED { ", …" } else { "" })
}

/// The first of some tokens, with their ids.
fn few(first: &[(u32, String)], count: usize) -> String {
    let named: Vec<String> = first.iter().map(|(id, token)| format!("{id} {token:?}")).collect();
    format!("{}{}", named.join(", "), if count > first.len() { ", …" } else { "" })
}

impl Error {
    /// What the person can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownDevice { .. } => Some("devices: flex (the default), ndarray, wgpu, cuda".into()),
            Self::DeviceNotBuilt { name } => Some(format!("build with `cargo build --release --features {name}`")),
            Self::NoAdapter { name } if name == "wgpu" => Some(
                "it needs a driver for Vulkan, Metal or DirectX 12; Debian's mesa-vulkan-drivers has one that computes on the processor".into(),
            ),
            Self::UnknownVectors { .. } => Some(format!(
                "unset it for the widest that the processor has, or limit them: {}",
                VectorSet::NAMES.map(|(name, _)| name).join(", ")
            )),
            Self::NoAdapter { .. } => Some("it needs a card and its driver; `duel doctor` lists what is found".into()),
            Self::Damaged { .. } | Self::Lacking { .. } | Self::Shape { .. } => Some(
                "if it was downloaded, fetch it again; if a stage wrote it, remove the stage's folder and run again: it will be \
                 trained again"
                    .into(),
            ),
            Self::Foreign { .. } => Some(
                "its settings describe a model without it: another model's, or one with parts that are not computed here".into(),
            ),
            Self::LfsPointer { .. } => {
                Some("fetch the file itself: `git lfs pull` in the folder, or download the model anew".into())
            }
            Self::Read { path, .. } if path.is_relative() && path.parent().is_none_or(|folder| !folder.is_dir()) => {
                Some("relative paths of an experiment are those of the folder where `duel run` was started".into())
            }
            Self::TooLong { .. } => Some("lower `prompt_tokens` or `response_tokens` of the world".into()),
            Self::BeyondEmbedding { rows, .. } => Some(format!(
                "accepted: ids below {rows}; give the model an embedding for each (transformers: `resize_token_embeddings`), or \
                 take these tokens out of the tokenizer's files"
            )),
            Self::MissingParts { .. } => Some("fetch them into the same folder, under the names that they have there".into()),
            Self::Changed { .. } => Some(
                "a model's files must stay as they are as long as a run reads them; put them back, or run again with the new \
                 ones: a stage's key covers them"
                    .into(),
            ),
            Self::Unsupported { key, accepted, .. } => Some(format!("accepted for `{key}`: {accepted}")),
            _ => None,
        }
    }
}
