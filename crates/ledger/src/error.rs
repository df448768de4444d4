//! What can go wrong with a run directory.

use std::path::PathBuf;

/// A file or folder of a run that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the run directory `{}` is in use by process {holder}", path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("`{}` is not a run directory: it has no {missing}", path.display())]
    NotARun { path: PathBuf, missing: &'static str },
    #[error("the table `{}` cannot be {action}: {problem}", path.display())]
    Table { action: &'static str, path: PathBuf, problem: String },
    #[error("`{}` is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("`{}` is not the experiment that was run: {}", path.display(), few(settings))]
    Edited { path: PathBuf, settings: Vec<String> },
    #[error("the tables of `{}` are not of its experiment: {problem}", path.display())]
    Foreign { path: PathBuf, problem: String },
    #[error("`{}` was written by a newer Duel: format {found}, this one reads up to {known}", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
}

/// The first of many settings, and how many more there are.
fn few(settings: &[String]) -> String {
    const NAMED: usize = 4;
    let more = settings.len().saturating_sub(NAMED);
    let named = settings[..settings.len() - more].join("; ");
    if more == 0 { named } else { format!("{named}; and {more} more") }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { source, action, path } => {
                let words = format!("failed to {action} `{}`: {source}", path.display());
                Self::new(source.kind(), words)
            }
            other => Self::other(other),
        }
    }
}

impl Error {
    /// What the person can change.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    "choose another place with `--out DIR`, or change the permissions".into()
                }
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    "free some space and run the same command again: finished stages are kept".into()
                }
                std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => {
                    "a file stands where a folder is needed; choose another place with `--out DIR`".into()
                }
                _ => "finished stages are kept; run the same command again once this is mended".into(),
            },
            Self::Locked { .. } => "wait for it to end, or give this run another `name` or `--out`".into(),
            Self::NotARun { .. } => "name the folder that `duel run` wrote, for example `runs/smoke`".into(),
            Self::Table { .. } | Self::Damaged { .. } => {
                "run the experiment again: what is whole is kept, what is damaged is made anew".into()
            }
            Self::Edited { .. } => "put it back as it was, or run it: what is finished and still fits is kept".into(),
            Self::Foreign { .. } => {
                "run the experiment again: finished stages are kept, and their tables merged anew".into()
            }
            Self::Newer { .. } => "update Duel, or write to another `--out`".into(),
        })
    }
}
