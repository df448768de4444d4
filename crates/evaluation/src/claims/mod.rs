//! The exact claims (docs/claims.md, 'A: exact claims', and C7): small experiments with known answers on `bandit`, in seconds.

mod claim;
mod learning;
mod preferences;
mod sampling;
mod theory;

pub use claim::{Bound, ClaimNumber, ExactClaim};

/// What measures a claim.
///
/// # Errors
/// A training that diverges.
pub type ClaimFunction = fn() -> crate::Result<ExactClaim>;

/// Their ids, and what measures each, in order.
pub const EXACT: [(&str, ClaimFunction); 12] = [
    ("A1", || Ok(theory::optimum_is_unique())),
    ("A2", || Ok(theory::rewards_of_one_class())),
    ("A3", || Ok(preferences::population_optimum())),
    ("A4", || Ok(theory::dpo_gradient())),
    ("A5", || Ok(theory::gradient_asymmetry())),
    ("A6", || Ok(preferences::off_coverage())),
    ("A7", || Ok(preferences::deterministic_preferences())),
    ("A8", || Ok(preferences::label_flips())),
    ("A9", || Ok(sampling::best_of_n())),
    ("A10", || Ok(sampling::kl_estimators())),
    ("A11", learning::both_methods_reach_the_optimum),
    ("C7", learning::ppo_learns_from_its_own_completions),
];

/// All of them, measured.
///
/// # Errors
/// A training among them that diverges.
pub fn exact() -> crate::Result<Vec<ExactClaim>> {
    EXACT.iter().map(|(_, measure)| measure()).collect()
}
