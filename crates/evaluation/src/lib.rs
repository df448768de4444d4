//! One yardstick for all arms and the reference: gold and proxy reward, KL to the reference, win rate,
//! regret. Exact where the world can be enumerated, sampled elsewhere.

pub mod claims;
mod error;
mod exact;
mod held_out;
pub mod invariants;
mod law;
mod sampled;
mod score;
mod tables;
#[cfg(test)]
mod wiring;
mod yardstick;

pub use error::Error;
pub use exact::{ExactEvaluator, distributions, kl_grammar, proxy_table};
pub use held_out::HeldOut;
pub use law::{OptimaMeans, ResponseDistribution, at_kl, optimum};
pub use sampled::{SampleSize, SampledEvaluator};
pub use score::{CompletionTag, EvalResult, completions};
pub use tables::{Optimum, WorldTables};
pub use yardstick::{EvalKind, Evaluator};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
