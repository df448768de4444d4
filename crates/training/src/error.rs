//! Why a training stops.

/// What is said of a broken invariant, which no input can cause.
pub const FAULT_OF_DUEL: &str =
    "this is a fault of Duel, not of the experiment: please report it with experiment.toml and this message";

/// A training that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Numbers that are not finite, or that f32 no longer holds: what the settings did.
    #[error("training diverged at step {step}: {what} is {found}{}", rated(*learning_rate))]
    Diverged { step: u64, what: String, found: f64, learning_rate: Option<f64> },
    /// What must hold whatever is trained, on whatever rows, at whatever rate.
    #[error("invariant `{name}` failed at step {step}: {what} is {found}, expected {expected}")]
    Invariant { name: &'static str, step: u64, what: String, found: String, expected: String },
    #[error("responses cannot be scored")]
    Unscored { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the state of a training cannot be {action}")]
    State { action: &'static str, source: std::io::Error },
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Model(#[from] duel_model::Error),
    #[error(transparent)]
    Data(#[from] duel_data::Error),
}

fn rated(learning_rate: Option<f64>) -> String {
    learning_rate.map_or(String::new(), |rate| format!(", at a learning rate of {rate}"))
}

impl Error {
    /// The same error, of a training at a (peak) learning rate.
    pub fn at_rate(mut self, rate: f64) -> Self {
        if let Self::Diverged { learning_rate, .. } = &mut self {
            learning_rate.get_or_insert(rate);
        }
        self
    }

    /// The same error, of a model that has made so many updates.
    pub fn at_step(mut self, now: u64) -> Self {
        if let Self::Diverged { step, .. } | Self::Invariant { step, .. } = &mut self {
            *step = now;
        }
        self
    }

    /// What the person can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Diverged { step: 1.., .. } => Some(
                "try a lower `learning_rate`, for example a tenth of it, or a lower `learner.clip_norm`; finished stages are kept"
                    .into(),
            ),
            Self::Diverged { .. } => Some(
                "no update was made yet, so what it starts from is at fault: lower the `learning_rate` of the stages before it, \
                 or, where `beta` or a scale of scores is extreme, move that"
                    .into(),
            ),
            Self::Invariant { .. } => Some(FAULT_OF_DUEL.into()),
            Self::Data(e) => e.hint(),
            Self::Model(e) => e.hint(),
            Self::Unscored { .. } | Self::State { .. } | Self::Interrupted => None,
        }
    }
}
