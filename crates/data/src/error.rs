//! Errors of data on disk.

use std::path::PathBuf;

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A missing, damaged or unusable file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the reviews file `{}` is missing", path.display())]
    Missing { path: PathBuf },
    #[error("`{}` is not the expected file: its SHA-256 is {found}, expected {expected}", path.display())]
    Damaged { path: PathBuf, found: String, expected: &'static str },
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("failed to write `{}`", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("row {row} of `{}` cannot be read: {problem}", path.display())]
    Row { path: PathBuf, row: usize, problem: String },
    #[error("the format of `{}` is not supported", path.display())]
    Format { path: PathBuf },
    #[error("`{}`: {problem}", path.display())]
    Columns { path: PathBuf, problem: String, hint: String },
    #[error("`{}`: {problem}", path.display())]
    Paths { path: PathBuf, problem: String },
    #[error("`{}` is {found}, not a file", path.display())]
    NoFile { path: PathBuf, found: &'static str },
    #[error("{count} rows cannot be trained on:\n{}", lines.join("\n"))]
    BadRows { count: usize, lines: Vec<String>, hint: String },
    #[error("the chat template cannot be used: {problem}")]
    Template { problem: String },
    #[error("the question to the judge of pairs cannot be used: {problem}")]
    Question { problem: String },
    #[error("{problem}")]
    Unfit { problem: String },
    #[error("the tokenizer failed: {problem}")]
    Tokenizer { problem: String },
    #[error("too few usable rows: {found}{first_left_out}")]
    FewRows {
        found: String,
        /// The first row that was left out, as the end of a sentence.
        first_left_out: String,
        /// How many rows were read, and how many left out and why.
        counts: String,
    },
    #[error(
        "all {} completions with a label are {}, and no loss learns from one kind alone",
        wanted + unwanted,
        if *wanted > 0 { "wanted" } else { "unwanted" }
    )]
    OneKind { wanted: usize, unwanted: usize },
    #[error("no pair of responses to one prompt in {tries} attempts: the policy repeats itself")]
    NoPairs { tries: usize },
    #[error("`{text}` is not a prompt of this world: {found}")]
    NoPrompt { text: String, found: String, accepted: String },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } => {
                Some("run `scripts/get-data reviews`, which downloads and verifies the files".into())
            }
            Self::FewRows { counts, .. } => Some(format!(
                "{counts}; every split needs pairs: raise `holdout`, or give files for `validation` and `test`; `duel data check` \
                 gives details, line by line"
            )),
            Self::OneKind { .. } => Some(
                "add completions of the other kind, or remove `completion` and `label`: the model then responds to the prompts and the judge labels the responses".into(),
            ),
            Self::Format { .. } => {
                Some("files of rows end in .jsonl, .json, .csv, .tsv or .parquet, each also with .gz or .zst behind it".into())
            }
            Self::Columns { hint, .. } => Some(hint.clone()),
            Self::NoFile { .. } => Some("rows are read from regular files; write the output of a pipe to a file first".into()),
            Self::BadRows { hint, .. } => Some(hint.clone()),
            Self::NoPairs { .. } => Some("train the SFT stage for fewer steps, or use a larger vocabulary".into()),
            Self::NoPrompt { accepted, .. } => Some(accepted.clone()),
            Self::Question { .. } => Some(
                "`evaluation.pairwise.question` is a Jinja template with `prompt`, `a` and `b`, to be answered with A or B; `duel defaults` prints the usual one".into(),
            ),
            _ => None,
        }
    }
}
