//! One evaluation for all arms and the reference: gold and proxy reward, KL to the reference, win rate, regret. Exact where the
//! world can be enumerated, sampled elsewhere.

pub mod claims;
mod distribution;
mod error;
mod evaluator;
mod exact;
mod held_out;
pub mod invariants;
mod pairwise;
mod sampled;
mod score;
mod tables;
#[cfg(test)]
mod wiring;

pub use distribution::{ObjectiveTerms, ResponseDistribution, at_kl, optimum};
pub use error::Error;
pub use evaluator::{EvalKind, Evaluator};
pub use exact::{ExactEvaluator, distributions, kl_grammar, proxy_table};
pub use held_out::{HELD_OUT_PAIRS, HeldOut, OrderedPairs};
pub use pairwise::PairwiseEvaluation;
pub use sampled::{SampleSize, SampledEvaluator};
pub use score::{CompletionTag, EvalResult, completions};
pub use tables::{Optimum, WorldTables};

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;
