//! Evaluation in a world, exact or sampled, behind one call.

use crate::{EvalResult, ExactEvaluator, Result, SampleSize, SampledEvaluator};
use duel_model::Policy;
use duel_spec::Split;

/// When a policy is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalKind {
    /// A point of the learning curve: on fewer prompts where evaluation is costly.
    Curve,
    /// The finished policy: validation and test in full.
    End,
}

/// Evaluates every policy of a world in the same way.
#[derive(Debug)]
pub enum Evaluator {
    Exact(Box<ExactEvaluator>),
    Sampled { evaluator: Box<SampledEvaluator>, curve: SampleSize, end: SampleSize },
}

impl Evaluator {
    /// Metrics of a policy without gradient; `beta` is the KL coefficient of its objective, if it has one. `progress` is told what is
    /// done of how much.
    pub fn measure(
        &self,
        policy: &Policy,
        beta: Option<f64>,
        kind: EvalKind,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<EvalResult>> {
        match self {
            Self::Exact(exact) => exact.measure(policy, beta), // seconds at most
            Self::Sampled { evaluator, curve, end } => {
                let splits = [Split::Validation, Split::Test];
                let (mut done, all) = (0, SampledEvaluator::PARTS * splits.len() as u64);
                let mut on_part = || {
                    progress(done, all);
                    done += 1;
                };
                let measure = |split: &Split| match kind {
                    EvalKind::Curve => evaluator.measure(policy, *split, *curve, &mut on_part),
                    EvalKind::End => evaluator.measure_finished(policy, *split, *end, &mut on_part),
                };
                splits.iter().map(measure).collect()
            }
        }
    }
}
