//! Why a training stops.

/// The hint of a violated invariant, which no input can cause.
pub const FAULT_OF_DUEL: &str =
    "this is a fault of Duel, not of the experiment: please report it with experiment.toml and this message";

/// A training that cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Numbers that are not finite, or beyond what f32 can represent: caused by the settings.
    #[error("training diverged at step {step}: {what} is {value}{}", rated(*learning_rate))]
    Diverged { step: u64, what: String, value: f64, learning_rate: Option<f64> },
    /// A condition that holds for every training, on any rows, at any learning rate.
    #[error("invariant `{name}` failed at step {step}: {what} is {actual}, expected {expected}")]
    Invariant { name: &'static str, step: u64, what: String, actual: String, expected: String },
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
    /// The same error with the training's (peak) learning rate.
    pub fn at_rate(mut self, rate: f64) -> Self {
        if let Self::Diverged { learning_rate, .. } = &mut self {
            learning_rate.get_or_insert(rate);
        }
        self
    }

    /// The same error with the number of updates that the model has made.
    pub fn at_step(mut self, updates: u64) -> Self {
        if let Self::Diverged { step, .. } | Self::Invariant { step, .. } = &mut self {
            *step = updates;
        }
        self
    }

    /// What the user can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Diverged { step: 1.., .. } => Some(
                "try a lower `learning_rate`, for example a tenth of it, or a lower `learner.clip_norm`; an extreme `beta` or scale of \
                 scores diverges at any rate. Finished stages are kept"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_names_step_value_and_rate_and_what_to_lower() {
        let diverged = |step| Error::Diverged { step, what: "the loss".into(), value: f64::NAN, learning_rate: None };
        assert_eq!(diverged(7).to_string(), "training diverged at step 7: the loss is NaN");
        let rated = diverged(7).at_rate(0.5);
        assert_eq!(rated.to_string(), "training diverged at step 7: the loss is NaN, at a learning rate of 0.5");
        assert_eq!(rated.at_rate(2.0).at_step(9).to_string().split(", ").last(), Some("at a learning rate of 0.5"));
        let hint = |step| diverged(step).hint().unwrap_or_default();
        assert!(
            hint(1).contains("`learner.clip_norm`")
                && hint(1).contains("`beta`")
                && hint(0).contains("the stages before it")
        );
    }

    #[test]
    fn an_invariant_names_its_step_and_hints_are_those_of_the_cause() {
        let invariant =
            Error::Invariant { name: "sums", step: 0, what: "a sum".into(), actual: "1".into(), expected: "2".into() };
        assert_eq!(invariant.hint().as_deref(), Some(FAULT_OF_DUEL));
        let moved = invariant.at_rate(0.5).at_step(9).to_string();
        assert_eq!(moved, "invariant `sums` failed at step 9: a sum is 1, expected 2");
        let cause = || duel_data::Error::BadRows { count: 1, lines: vec![], hint: "mend the row".into() };
        assert_eq!(Error::from(cause()).hint().as_deref(), Some("mend the row"));
        assert_eq!(Error::Interrupted.hint(), None);
    }
}
