//! The policy in training on the rows of a rollout: its log-probs, and the options of its loss.

use crate::rollout::Rollout;
use crate::rows::rows_of;
use crate::shaping::estimate_kl;
use burn::tensor::Tensor;
use duel_model::{Policy, ResponseReader, Tokens};
use duel_objectives::{PolicyLoss, entropy, full_kl, token_logp};
use duel_spec::{KlEstimator, KlPenalty, RolloutSettings};

/// A policy's log-probs of the tokens of some responses.
#[derive(Debug)]
pub struct PolicyOutput {
    /// `[b, T]`
    pub logp: Tensor<2>,
    /// `[b, T, V]`, where a loss reads the full distribution.
    logits: Option<Tensor<3>>,
}

impl PolicyOutput {
    /// From the policy's hidden states `[b, T, D]` before each response token.
    pub fn after(
        s: &RolloutSettings,
        reader: &ResponseReader,
        policy: &Policy,
        states: Tensor<3>,
        tokens: &Tokens,
    ) -> Self {
        if !s.needs_full_logits()
            && let Some(logp) = reader.token_logprobs_from_hidden(policy, states.clone(), tokens)
        {
            return Self { logp, logits: None };
        }
        let logits = reader.logits_after(policy, states); // [b, T, V]
        Self { logp: token_logp(logits.clone(), reader.targets(tokens)), logits: Some(logits) }
    }

    /// From the policy's tokens.
    pub fn of(s: &RolloutSettings, reader: &ResponseReader, policy: &Policy, tokens: &Tokens) -> Self {
        Self::after(s, reader, policy, reader.hidden_states(policy, tokens), tokens)
    }
}

/// Adds the options of a policy loss on some rows of a rollout: β times the KL where `kl = "loss"`, less the entropy bonus.
/// `reader` is on the autodiff device.
///
/// # Source
/// Shao et al. 2024, eq. 3; Schulman et al. 2017, eq. 9.
pub fn with_kl_and_entropy(
    mut policy: PolicyLoss,
    s: &RolloutSettings,
    rollout: &Rollout,
    rows: &[usize],
    output: PolicyOutput,
    reader: &ResponseReader,
) -> PolicyLoss {
    let mask = rollout.mask_of(rows); // [b, T]
    let PolicyOutput { logp, logits } = output;
    if s.kl == KlPenalty::Loss {
        let kl = match (&logits, &rollout.reference) {
            (Some(logits), Some(reference)) if s.kl_estimator == KlEstimator::Full => {
                let reader = reader.valid();
                let ref_logits = reader.logits(reference, &reader.tokens(&rollout.responses.select(rows))); // [b, T, V]
                full_kl(logits.clone(), Tensor::from_inner(ref_logits))
            }
            _ => estimate_kl(s.kl_estimator, logp, rows_of(&rollout.ref_logp, rows)),
        };
        policy.loss = policy.loss + mask.average(kl) * rollout.beta;
    }
    if s.entropy_coef != 0.0
        && let Some(logits) = logits
    {
        policy.loss = policy.loss - mask.average(entropy(logits)) * s.entropy_coef;
    }
    policy
}
