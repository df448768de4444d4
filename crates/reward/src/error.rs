//! Errors of rewards.

use std::path::PathBuf;

/// A reward that cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the judge `{}` cannot be read: {problem}", path.display())]
    Judge { path: PathBuf, problem: String },
    #[error("the pattern `{pattern}` of a rule is not a regular expression: {problem}")]
    Pattern { pattern: String, problem: String },
    #[error("the judge `{command}` failed: {problem}")]
    Command { command: String, problem: String },
    #[error("the linear reward model is not settled after {steps} of Newton's steps")]
    Unsettled { steps: usize },
    #[error(transparent)]
    Training(#[from] duel_training::Error),
    #[error(transparent)]
    Model(#[from] duel_model::Error),
    #[error(transparent)]
    Data(#[from] duel_data::Error),
}
