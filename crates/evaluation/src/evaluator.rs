//! Evaluation in a world, exact or sampled, behind one call.

use crate::{EvalResult, ExactEvaluator, PairwiseEvaluation, Result, SampleSize, SampledEvaluator};
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
    Sampled {
        evaluator: Box<SampledEvaluator>,
        curve: SampleSize,
        end: SampleSize,
        /// A judge of pairs, which compares finished policies with the reference on test prompts.
        pairwise: Option<PairwiseEvaluation>,
    },
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
            Self::Sampled { evaluator, curve, end, pairwise } => {
                let splits = [Split::Validation, Split::Test];
                let (mut done, all) = (0, SampledEvaluator::PARTS * splits.len() as u64);
                let mut on_part = || {
                    progress(done, all);
                    done += 1;
                };
                let (size, pairwise) = match kind {
                    EvalKind::Curve => (*curve, None),
                    EvalKind::End => (*end, pairwise.as_ref()),
                };
                let measure = |&split: &Split| {
                    let pairwise = pairwise.filter(|_| split == Split::Test);
                    evaluator.measure(policy, split, size, pairwise, &mut on_part)
                };
                splits.iter().map(measure).collect()
            }
        }
    }
}
