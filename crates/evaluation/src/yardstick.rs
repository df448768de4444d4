//! The yardstick of a world, exact or sampled, behind one call.

use crate::{Effort, GrammarYardstick, Result, SampledYardstick, Score};
use duel_model::Policy;
use duel_spec::Split;

/// When a policy is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A point of the learning curve: where measuring costs, on fewer prompts.
    Curve,
    /// The finished policy: validation and test in full.
    End,
}

/// Measures every policy of a world in the same way.
#[derive(Debug)]
pub enum Yardstick {
    Exact(Box<GrammarYardstick>),
    Sampled { yardstick: Box<SampledYardstick>, curve: Effort, end: Effort },
}

impl Yardstick {
    /// Marks of a policy without gradient; `beta` prices its objective where it has one.
    pub fn measure(&self, policy: &Policy, beta: Option<f64>, moment: Moment) -> Result<Vec<Score>> {
        match self {
            Self::Exact(exact) => exact.measure(policy, beta),
            Self::Sampled { yardstick, curve, end } => {
                let effort = if moment == Moment::Curve { *curve } else { *end };
                [Split::Validation, Split::Test].iter().map(|s| yardstick.measure(policy, *s, effort)).collect()
            }
        }
    }
}
