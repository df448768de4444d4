//! A reference that follows the policy.

use duel_model::{Policy, weights};

/// The reference with the weights `decay · w_ref + (1 − decay) · w`, w those of the actor with its adapters merged.
///
/// # Source
/// Xu et al. 2024, §5, for rollouts; TR-DPO, Gorbatovski et al. 2024, for pairs, with α = 1 − decay.
pub fn follow(reference: &Policy, actor: &Policy, decay: f64) -> Policy {
    let (decay, current) = (decay as f32, weights::flatten(&actor.clone().merged()));
    let blend: Vec<f32> =
        weights::flatten(reference).iter().zip(current).map(|(old, new)| decay * old + (1.0 - decay) * new).collect();
    weights::unflatten(reference.clone(), &blend)
}
