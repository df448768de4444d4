//! What can go wrong while measuring.

/// A measurement that cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("invariant `{name}` failed in an evaluation: {what} is {found}, expected {expected}")]
    Invariant { name: &'static str, what: String, found: String, expected: String },
    #[error(transparent)]
    Training(#[from] duel_training::Error),
    #[error(transparent)]
    Reward(#[from] duel_reward::Error),
    #[error(transparent)]
    Data(#[from] duel_data::Error),
}
