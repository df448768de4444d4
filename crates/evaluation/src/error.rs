//! What can go wrong in an evaluation.

/// An evaluation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invariant `{name}` failed in the evaluation at step {step}: {what} is {actual}, expected {expected}")]
    Invariant { name: &'static str, step: u64, what: String, actual: String, expected: String },
    #[error(transparent)]
    Training(#[from] duel_training::Error),
    #[error(transparent)]
    Reward(#[from] duel_reward::Error),
    #[error(transparent)]
    Data(#[from] duel_data::Error),
}

impl Error {
    /// The same error with the number of updates that the policy has made.
    pub fn at_step(self, updates: u64) -> Self {
        match self {
            Self::Invariant { name, what, actual, expected, .. } => {
                Self::Invariant { name, step: updates, what, actual, expected }
            }
            Self::Training(error) | Self::Reward(duel_reward::Error::Training(error)) => {
                Self::Training(error.at_step(updates))
            }
            other => other,
        }
    }
}
