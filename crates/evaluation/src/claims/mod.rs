//! The exact claims (docs/claims.md, 'A: exact claims', and C7): small experiments with known answers on `bandit`, in seconds.

mod claim;
mod learning;
mod preferences;
mod sampling;
mod theory;

pub use claim::{Bound, ClaimNumber, ExactClaim};

/// All of them, in order.
///
/// # Errors
/// A training among them that diverges.
pub fn exact() -> crate::Result<Vec<ExactClaim>> {
    Ok(vec![
        theory::optimum_is_unique(),
        theory::rewards_of_one_class(),
        preferences::population_optimum(),
        theory::dpo_gradient(),
        theory::gradient_asymmetry(),
        preferences::off_coverage(),
        preferences::deterministic_preferences(),
        preferences::label_flips(),
        sampling::best_of_n(),
        sampling::kl_estimators(),
        learning::both_methods_reach_the_optimum()?,
        learning::ppo_learns_from_its_own_completions()?,
    ])
}
