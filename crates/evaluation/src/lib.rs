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
pub use exact::{GrammarYardstick, kl_grammar, laws, proxy_table};
pub use held_out::HeldOut;
pub use law::{Frontier, Law, at_kl, optimum};
pub use sampled::{Effort, SampledYardstick};
pub use score::{Score, Whose, completions};
pub use tables::{Optimum, Tables};
pub use yardstick::{Moment, Yardstick};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
