//! Errors of a run directory.

use std::path::{Path, PathBuf};

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What a folder lacks to be a run, or that it is not there.
fn absent(path: &Path, missing: &str) -> String {
    if path.exists() { format!("it has no {missing}") } else { "there is no such folder".into() }
}

/// A file or folder of a run that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the run directory `{}` is in use by process {holder}", path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("`{}` is not a run directory: {}", path.display(), absent(path, missing))]
    NotARun { path: PathBuf, missing: &'static str },
    #[error("the table `{}` cannot be {action}: {problem}", path.display())]
    Table { action: &'static str, path: PathBuf, problem: String },
    #[error("`{}` is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("`{}` is not the experiment that was run: {}", path.display(), first_and_more(settings, MAX_NAMED))]
    Edited { path: PathBuf, settings: Vec<String> },
    #[error("the tables of `{}` do not belong to its experiment: {problem}", path.display())]
    Foreign { path: PathBuf, problem: String },
    #[error("`{}` was written by a newer Duel: format {found}, while this one reads up to {known}", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
}

/// Settings that an error names.
const MAX_NAMED: usize = 4;

/// `a; b; and 3 more`: the first items of a list, at most `max_named`, and how many more there are.
pub fn first_and_more(items: &[String], max_named: usize) -> String {
    let more = items.len().saturating_sub(max_named);
    let named = items[..items.len() - more].join("; ");
    if more == 0 { named } else { format!("{named}; and {more} more") }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { source, action, path } => {
                let message = format!("failed to {action} `{}`: {source}", path.display());
                Self::new(source.kind(), message)
            }
            other => Self::other(other),
        }
    }
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    "choose another folder with `--out DIR`, or change the permissions".into()
                }
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    "free some space and run the same command again: finished stages are kept".into()
                }
                std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => {
                    "a file is where a folder is needed; choose another folder with `--out DIR`".into()
                }
                _ => "finished stages are kept; run the same command again once this is fixed".into(),
            },
            Self::Locked { .. } => "wait until it ends, or give this run another `name` or `--out`".into(),
            Self::NotARun { .. } => "give the folder that `duel run` wrote, for example `runs/smoke`".into(),
            Self::Table { .. } | Self::Damaged { .. } => {
                "run the experiment again: undamaged stages are kept, damaged ones are run again".into()
            }
            Self::Edited { .. } => {
                "undo the changes, or run the experiment: finished stages that still match are kept".into()
            }
            Self::Foreign { .. } => {
                "run the experiment again: finished stages are kept, and their tables are merged again".into()
            }
            Self::Newer { .. } => "update Duel, or write to another `--out`".into(),
        })
    }
}
