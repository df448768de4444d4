//! What can go wrong while measuring.

/// A measurement that cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invariant `{name}` failed in the evaluation at step {step}: {what} is {found}, expected {expected}")]
    Invariant { name: &'static str, step: u64, what: String, found: String, expected: String },
    #[error(transparent)]
    Training(#[from] duel_training::Error),
    #[error(transparent)]
    Reward(#[from] duel_reward::Error),
    #[error(transparent)]
    Data(#[from] duel_data::Error),
}

impl Error {
    /// The same error, of a policy that has made `step` updates.
    pub fn at_step(self, now: u64) -> Self {
        match self {
            Self::Invariant { name, what, found, expected, .. } => {
                Self::Invariant { name, step: now, what, found, expected }
            }
            Self::Training(error) | Self::Reward(duel_reward::Error::Training(error)) => {
                Self::Training(error.at_step(now))
            }
            other => other,
        }
    }
}
