//! The policy's loss on a rollout, the same for every method that gives it advantages.

use crate::rollout::{Rollout, index};
use burn::tensor::Tensor;
use duel_model::{Policy, Reader, Tokens};
use duel_objectives::{PolicyLoss, clipped_policy_loss, entropy, full_kl, k1, k2, k3, token_logp};
use duel_spec::{KlEstimator, KlPenalty, RolloutSettings};

/// What a policy says of the tokens of some responses.
#[derive(Debug)]
pub struct PolicyOutput {
    /// `[b, T]`
    pub logp: Tensor<2>,
    /// `[b, T, V]`, where a loss asks for the whole law.
    logits: Option<Tensor<3>>,
}

impl PolicyOutput {
    /// From the policy's hidden states `[b, T, D]` before each response token.
    pub fn after(s: &RolloutSettings, reader: &Reader, policy: &Policy, states: Tensor<3>, tokens: &Tokens) -> Self {
        if !s.needs_full_logits()
            && let Some(logp) = reader.token_logprobs_from_hidden(policy, states.clone(), tokens)
        {
            return Self { logp, logits: None };
        }
        let logits = reader.logits_after(policy, states); // [b, T, V]
        Self { logp: token_logp(logits.clone(), reader.targets(tokens)), logits: Some(logits) }
    }

    /// From a policy of its own body.
    pub fn of(s: &RolloutSettings, reader: &Reader, policy: &Policy, tokens: &Tokens) -> Self {
        Self::after(s, reader, policy, reader.hidden_states(policy, tokens), tokens)
    }
}

/// An estimate of each token's KL from log-probs, `[b, T]`; the whole vocabulary's is [`full_kl`].
pub fn estimate(estimator: KlEstimator, logp: Tensor<2>, ref_logp: Tensor<2>) -> Tensor<2> {
    match estimator {
        KlEstimator::K1 | KlEstimator::Full => k1(logp, ref_logp),
        KlEstimator::K2 => k2(logp, ref_logp),
        KlEstimator::K3 => k3(logp, ref_logp),
    }
}

/// The clipped loss of some rows of a rollout whose policy now reads as `now`, with the price of KL where that is paid in
/// the loss, less the entropy bonus.
///
/// # Shapes
/// `advantages`: `[B, T]`, of the whole rollout; `reader` is on the autodiff device.
/// # Source
/// Schulman et al. 2017, eq. 7 and 9; Shao et al. 2024, eq. 3.
pub fn policy_loss(
    s: &RolloutSettings,
    rollout: &Rollout,
    advantages: &Tensor<2>,
    rows: &[usize],
    now: PolicyOutput,
    reader: &Reader,
) -> PolicyLoss {
    let mask = rollout.mask_of(rows); // [b, T]
    let of = |x: &Tensor<2>| Tensor::from_inner(x.clone().select(0, index(rows, x))); // [b, T]
    let PolicyOutput { logp, logits } = now;
    let mut outcome = clipped_policy_loss(logp.clone(), of(&rollout.logp), of(advantages), s.clip_range, &mask);
    if s.kl == KlPenalty::Loss {
        let kl = match (&logits, &rollout.reference) {
            (Some(logits), Some(reference)) if s.kl_estimator == KlEstimator::Full => {
                let plain = reader.valid();
                let theirs = plain.logits(reference, &plain.tokens(&rollout.responses.select(rows))); // [b, T, V]
                full_kl(logits.clone(), Tensor::from_inner(theirs))
            }
            _ => estimate(s.kl_estimator, logp, of(&rollout.ref_logp)),
        };
        outcome.loss = outcome.loss + mask.average(kl) * rollout.beta;
    }
    if s.entropy_coef != 0.0
        && let Some(logits) = logits
    {
        outcome.loss = outcome.loss - mask.average(entropy(logits)) * s.entropy_coef;
    }
    outcome
}
