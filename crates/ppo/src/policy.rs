//! The policy in training on the rows of a rollout: its log-probs, and the options of its loss.

use crate::law::tempered;
use crate::rollout::Rollout;
use crate::rows::rows_of;
use crate::shaping::estimate_kl;
use burn::tensor::Tensor;
use duel_model::{Policy, ResponseReader, Tokens};
use duel_objectives::{
    PolicyGradientLoss, PolicyLoss, RatioLevel, SoftKernel, Surrogate, entropy, full_kl, k1, token_logp,
};
use duel_spec::{ImportanceSamplingLevel, KlEstimator, KlPenalty, PolicyObjective, RolloutSettings};

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
        let temperature = s.trained_temperature();
        if !s.needs_full_logits()
            && temperature == 1.0
            && let Some(logp) = reader.token_logprobs_from_hidden(policy, states.clone(), tokens)
        {
            return Self { logp, logits: None };
        }
        let logits = tempered(reader.logits_after(policy, states), temperature); // [b, T, V]
        let logp = token_logp(logits.clone(), reader.targets(tokens)); // [b, T]
        Self { logp, logits: s.needs_full_logits().then_some(logits) }
    }

    /// From the policy's tokens.
    pub fn of(s: &RolloutSettings, reader: &ResponseReader, policy: &Policy, tokens: &Tokens) -> Self {
        Self::after(s, reader, policy, reader.hidden_states(policy, tokens), tokens)
    }
}

/// The policy-gradient loss of some settings.
pub fn policy_gradient_loss(s: &RolloutSettings) -> PolicyGradientLoss {
    let (low, high) = (s.clip_range, s.upper_clip_range());
    PolicyGradientLoss {
        level: match s.importance_sampling_level {
            ImportanceSamplingLevel::Token => RatioLevel::Token,
            ImportanceSamplingLevel::Sequence => RatioLevel::Sequence,
            ImportanceSamplingLevel::SequenceToken => RatioLevel::SequenceToken,
        },
        surrogate: match s.policy_loss {
            PolicyObjective::Ppo => Surrogate::Clipped { low, high, dual: s.clip_dual },
            PolicyObjective::Cispo => Surrogate::ClippedWeight { low, high },
            PolicyObjective::Vespo => {
                let kernel = |k, lambda| SoftKernel { k, lambda };
                Surrogate::SoftWeight {
                    positive: kernel(s.vespo_k_pos, s.vespo_lambda_pos),
                    negative: kernel(s.vespo_k_neg, s.vespo_lambda_neg),
                }
            }
            PolicyObjective::Sapo => {
                Surrogate::SoftGate { positive: s.sapo_temperature_pos, negative: s.sapo_temperature_neg }
            }
        },
        off_policy_mask_threshold: s.off_policy_mask_threshold,
    }
}

/// Adds the options of a policy loss on some rows of a rollout: β times the KL where `kl = "loss"`, the penalty of the tokens that
/// KL-Cov chose, less the entropy bonus.
/// `reader` is on the autodiff device.
///
/// # Source
/// Shao et al. 2024, eq. 3; Cui et al. 2025, eq. 14, with the estimate |log π − log π_old| of their code; Schulman et al. 2017, eq. 9.
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
    let logp_now = logp.clone();
    if let (KlPenalty::Loss, Some(ref_logp)) = (s.kl, &rollout.ref_logp) {
        let kl = match (&logits, &rollout.reference) {
            (Some(logits), Some(reference)) if s.kl_estimator == KlEstimator::Full => {
                let reader = reader.valid();
                let ref_logits = reader.logits(reference, &reader.tokens(&rollout.responses.select(rows)));
                let ref_logits = tempered(ref_logits, s.trained_temperature()); // [b, T, V]
                full_kl(logits.clone(), Tensor::from_inner(ref_logits))
            }
            _ => estimate_kl(s.kl_estimator, logp, rows_of(ref_logp, rows)),
        };
        policy.loss = policy.loss + mask.average(kl) * rollout.beta;
    }
    if let Some(kl_coefs) = &rollout.token_kl_coefs {
        let log_ratio = k1(logp_now, rows_of(&rollout.logp, rows)); // [b, T]
        policy.loss = policy.loss + mask.average(log_ratio.abs() * rows_of(kl_coefs, rows));
    }
    if rollout.entropy_coef != 0.0
        && let Some(logits) = logits
    {
        policy.loss = policy.loss - mask.average(entropy(logits)) * rollout.entropy_coef;
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::{ROWS, T, context, policy, rollout, settings};
    use burn::module::Module;
    use duel_model::weights::host;

    const ROWS_READ: [usize; 2] = [1, 4];

    /// Log-probs of every token, `[b][T][V]`.
    fn log_softmax(reader: &ResponseReader, policy: &Policy, tokens: &Tokens) -> Vec<Vec<f64>> {
        let logits = reader.logits(policy, tokens);
        let vocabulary = logits.dims()[2];
        let normalized = |logits: &[f32]| {
            let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            logits.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
        };
        host(logits).chunks(vocabulary).map(normalized).collect()
    }

    /// `−Σ p log p` and `Σ p (log p − log q)`, in f64.
    #[test]
    fn the_kl_and_the_entropy_of_a_loss_by_hand() {
        let context = context();
        let rollout = Rollout {
            reference: Some(policy(1).no_grad()),
            ..rollout([0.0; ROWS], [0.0, 0.5, 0.0, 0.0, -0.25, 0.0, 0.0, 0.0], 0.2)
        };
        let responses = rollout.responses.select(&ROWS_READ);
        let tokens = context.reader.tokens(&responses);
        let [log_p, log_q] = [policy(2), policy(1)].map(|policy| log_softmax(&context.reader, &policy, &tokens));
        let mean = |of: &dyn Fn(usize) -> f64| (0..2 * T).map(of).sum::<f64>() / (2 * T) as f64;
        let expectation = |cell: usize, of: &dyn Fn(usize) -> f64| -> f64 {
            let is_possible = |id: &usize| log_p[cell][*id] > -100.0;
            (0..log_p[cell].len()).filter(is_possible).map(|id| log_p[cell][id].exp() * of(id)).sum()
        };
        // of a sampled token: log π_ref is −1.5 in the first row, −.75 in the second
        let log_ratio = |cell: usize| {
            log_p[cell][responses.responses[cell / T][cell % T] as usize] - if cell < T { -1.5 } else { -0.75 }
        };
        let kl = |estimator| match estimator {
            KlEstimator::K1 => mean(&log_ratio),
            KlEstimator::K2 => mean(&|cell| 0.5 * log_ratio(cell).powi(2)),
            KlEstimator::K3 => mean(&|cell| (-log_ratio(cell)).exp() - 1.0 + log_ratio(cell)),
            KlEstimator::Full => mean(&|cell| expectation(cell, &|id| log_p[cell][id] - log_q[cell][id])),
        };
        let entropy = mean(&|cell| -expectation(cell, &|id| log_p[cell][id]));
        let (reader, actor) = (&context.train_reader, policy(2).train());
        let estimators = [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3, KlEstimator::Full];
        for kl_estimator in estimators {
            for (penalty, entropy_coef) in
                [(KlPenalty::Reward, 0.0), (KlPenalty::Loss, 0.0), (KlPenalty::Reward, 0.3), (KlPenalty::Loss, 0.3)]
            {
                let s = RolloutSettings { kl: penalty, kl_estimator, entropy_coef, ..settings() };
                let rollout = Rollout { entropy_coef, ..rollout.clone() };
                let output = PolicyOutput::of(&s, reader, &actor, &reader.tokens(&responses));
                let loss = Tensor::from_data([2.0f32], reader.device());
                let old_logp = rows_of(&rollout.logp, &ROWS_READ);
                let plain = PolicyLoss::unclipped(loss, output.logp.clone(), old_logp, &rollout.mask_of(&ROWS_READ));
                let loss = with_kl_and_entropy(plain, &s, &rollout, &ROWS_READ, output, reader).loss;
                let actual = f64::from(host(loss.inner())[0]);
                let penalty = if penalty == KlPenalty::Loss { 0.2 * kl(kl_estimator) } else { 0.0 };
                let expected = 2.0 + penalty - entropy_coef * entropy;
                assert!((actual - expected).abs() < 1e-5, "{s:?}: {actual}, by hand {expected}");
            }
        }
        let kl_coefs = (0..ROWS * T).map(|cell| if cell % T == 1 { 0.7f32 } else { 0.0 }).collect::<Vec<_>>();
        let kl_coefs = Tensor::<1>::from_data(kl_coefs.as_slice(), context.reader.device()).reshape([ROWS, T]);
        let rollout = Rollout { token_kl_coefs: Some(kl_coefs), ..rollout };
        let s = settings();
        let output = PolicyOutput::of(&s, reader, &actor, &reader.tokens(&responses));
        let loss = Tensor::from_data([2.0f32], reader.device());
        let old_logp = rows_of(&rollout.logp, &ROWS_READ);
        let plain = PolicyLoss::unclipped(loss, output.logp.clone(), old_logp, &rollout.mask_of(&ROWS_READ));
        let loss = with_kl_and_entropy(plain, &s, &rollout, &ROWS_READ, output, reader).loss;
        // log π_old is −1
        let from_old = |cell: usize| log_p[cell][responses.responses[cell / T][cell % T] as usize] + 1.0;
        let penalty = mean(&|cell| if cell % T == 1 { 0.7 * from_old(cell).abs() } else { 0.0 });
        let actual = f64::from(host(loss.inner())[0]);
        assert!((actual - 2.0 - penalty).abs() < 1e-5 && penalty > 0.01, "{actual}, by hand {penalty}");
        let kls = estimators.map(kl);
        assert!(kls.iter().enumerate().all(|(i, a)| kls[..i].iter().all(|b| (a - b).abs() > 1e-3)), "{kls:?}");
    }
}
