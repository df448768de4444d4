//! Why a training stops.

/// A training that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("training diverged at step {step}: {what} is {found}")]
    Diverged { step: u64, what: &'static str, found: f64 },
    #[error("invariant `{name}` failed at step {step}: {what} is {found}, expected {expected}")]
    Invariant { name: &'static str, step: u64, what: String, found: String, expected: String },
    #[error("the state of a training cannot be {action}")]
    State { action: &'static str, source: std::io::Error },
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Model(#[from] duel_model::Error),
    #[error(transparent)]
    Data(#[from] duel_data::Error),
}
