//! A reference that follows the policy.

use duel_model::{Policy, weights};

/// The reference with the weights `decay · w_ref + (1 − decay) · w`, w those of the actor. Adapters of both are merged and rounded
/// matrices decoded, so that the result has all its weights in memory.
///
/// # Source
/// Xu et al. 2024, §5, for rollouts; TR-DPO, Gorbatovski et al. 2024, for pairs, with α = 1 − decay.
pub fn follow(reference: &Policy, actor: &Policy, decay: f64) -> Policy {
    let reference = reference.clone().merged();
    let (decay, current) = (decay as f32, weights::flatten(&actor.clone().merged()));
    let blend: Vec<f32> =
        weights::flatten(&reference).iter().zip(current).map(|(old, new)| decay * old + (1.0 - decay) * new).collect();
    weights::unflatten(reference, &blend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_kernels::FrozenNumbers;
    use duel_model::TransformerConfig;
    use duel_spec::seeds;

    /// Adapters on rounded matrices have other parameters than the model that they are merged into.
    #[test]
    fn adapters_and_rounded_matrices_are_mixed_as_weights() {
        let (device, config) = (Device::flex(), TransformerConfig::small(12, 8, 1, 16, 2, true));
        let rng = || seeds::derive(1, "test", 0, "init");
        let plain = Policy::new(&config, &mut rng(), &device);
        let reference = plain.clone().rounded(FrozenNumbers::Q8);
        let adapted = reference.clone().with_fresh_lora(2, 2.0, |_| true, &mut rng(), &device);
        let moved: Vec<f32> = weights::flatten(&adapted).iter().map(|weight| weight + 0.1).collect();
        let actor = weights::unflatten(adapted, &moved);
        let [old, new] = [&reference, &actor].map(|policy| weights::flatten(&policy.clone().merged()));
        assert_eq!((old.len(), new.len()), (weights::flatten(&plain).len(), old.len()));
        assert!(old.iter().zip(&new).any(|(old, new)| (old - new).abs() > 0.05));
        assert_eq!(weights::flatten(&follow(&reference, &actor, 0.0)), new);
        let mixed = follow(&follow(&reference, &actor, 0.75), &actor, 0.5);
        let expected: Vec<f32> = old.iter().zip(&new).map(|(old, new)| 0.375 * old + 0.625 * new).collect();
        let largest = weights::flatten(&mixed).iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-6, "{largest}");
    }
}
