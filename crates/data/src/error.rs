//! What can be wrong with data on disk.

use std::path::PathBuf;

/// A missing, damaged or unusable file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file `{}` of the reviews is missing", path.display())]
    Missing { path: PathBuf },
    #[error("the file `{}` is not the expected one: its sha256 is {found}, expected {expected}", path.display())]
    Damaged { path: PathBuf, found: String, expected: &'static str },
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to write `{}`", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("row {row} of `{}` cannot be read: {problem}", path.display())]
    Row { path: PathBuf, row: usize, problem: String },
    #[error("`{}` is of a kind that is not read", path.display())]
    Format { path: PathBuf },
    #[error("`{}` is {found}, not a file", path.display())]
    NoFile { path: PathBuf, found: &'static str },
    #[error("{count} rows cannot be trained on:\n{}", lines.join("\n"))]
    BadRows { count: usize, lines: Vec<String>, hint: String },
    #[error("the chat template cannot be used: {problem}")]
    Template { problem: String },
    #[error("{problem}")]
    Unfit { problem: String },
    #[error("the tokenizer failed: {problem}")]
    Tokenizer { problem: String },
    #[error("too few rows can be used: {found}{}", tally.first_left_out())]
    FewRows { found: String, tally: Box<crate::rows::PrepareStats> },
    #[error(
        "all {} completions with a label are {}, and no loss learns from one kind alone",
        wanted + unwanted,
        if *wanted > 0 { "wanted" } else { "unwanted" }
    )]
    OneKind { wanted: usize, unwanted: usize },
    #[error("no two responses could be paired after {tries} tries on one prompt: the policy repeats itself")]
    NoPairs { tries: usize },
    #[error("`{text}` is no prompt of this world: {found}")]
    NoPrompt { text: String, found: String, accepted: String },
}

impl Error {
    /// What the person can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } => {
                Some("run `scripts/get-data reviews`, which fetches the files and checks them".into())
            }
            Self::FewRows { tally, .. } => Some(format!("{tally}; `duel data check` says more, line by line")),
            Self::OneKind { .. } => Some(
                "add completions of the other kind, or leave `completion` and `label` out: the model then writes to the prompts what the judge labels".into(),
            ),
            Self::Format { .. } => Some("files of rows end in .jsonl, .json, .csv, .tsv or .parquet".into()),
            Self::NoFile { .. } => {
                Some("rows are read from files of their own; write what comes from a pipe into one".into())
            }
            Self::BadRows { hint, .. } => Some(hint.clone()),
            Self::NoPairs { .. } => Some("train the SFT stage less, or raise the vocabulary of its responses".into()),
            Self::NoPrompt { accepted, .. } => Some(accepted.clone()),
            _ => None,
        }
    }
}
