//! The yardstick of a world, exact or sampled, behind one call.

use crate::{EvalResult, ExactEvaluator, Result, SampleSize, SampledEvaluator};
use duel_model::Policy;
use duel_spec::Split;

/// When a policy is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalKind {
    /// A point of the learning curve: where measuring costs, on fewer prompts.
    Curve,
    /// The finished policy: validation and test in full.
    End,
}

/// Measures every policy of a world in the same way.
#[derive(Debug)]
pub enum Evaluator {
    Exact(Box<ExactEvaluator>),
    Sampled { yardstick: Box<SampledEvaluator>, curve: SampleSize, end: SampleSize },
}

impl Evaluator {
    /// Marks of a policy without gradient; `beta` prices its objective where it has one.
    pub fn measure(&self, policy: &Policy, beta: Option<f64>, moment: EvalKind) -> Result<Vec<EvalResult>> {
        match self {
            Self::Exact(exact) => exact.measure(policy, beta),
            Self::Sampled { yardstick, curve, end } => {
                let effort = if moment == EvalKind::Curve { *curve } else { *end };
                [Split::Validation, Split::Test].iter().map(|s| yardstick.measure(policy, *s, effort)).collect()
            }
        }
    }
}
