//! What can go wrong when a run is reported.

use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A report that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Ledger(#[from] duel_ledger::Error),
    #[error("failed to read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is no list of statements with claims: {problem}", path.display())]
    Statements { path: PathBuf, problem: String },
    #[error("failed to write `{}`", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("failed to draw a chart: {problem}")]
    Chart { problem: String },
    #[error("failed to fill the page: {problem}")]
    Page { problem: String },
    #[error("there is no chart `{name}` of this run; there are {}", known.join(", "))]
    NoFigure { name: String, known: Vec<String> },
    #[error("the experiment of the run cannot be read")]
    Spec(#[from] duel_spec::Error),
}
