//! What multiplies the advantages of the tokens of a rollout: importance weights where another law sampled them, and whether their
//! entropy is high.

use crate::invariants;
use crate::law::{tempered, tempered_logp};
use crate::rows::index;
use burn::tensor::{Tensor, TensorData};
use duel_model::{Policy, ResponseReader, Responses, weights::host};
use duel_objectives::{ResponseMask, entropy, high_entropy_tokens};
use duel_spec::{RolloutSettings, metrics};
use duel_training::rounding::nudged;
use duel_training::{Metrics, Result, logprobs};

/// A policy's passes over a rollout, and their log-probs.
#[derive(Debug, Clone, Copy)]
pub struct SampledTokens<'a> {
    pub settings: &'a RolloutSettings,
    pub reader: &'a ResponseReader,
    /// The policy that wrote the responses.
    pub policy: &'a Policy,
    pub responses: &'a Responses,
    /// Its log-probs, `[B, T]`.
    pub logp: &'a Tensor<2>,
}

impl SampledTokens<'_> {
    /// The log-probs that were stored while sampling are those of the policy, or of the law that sampled.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn check(self, step: u64) -> Result<()> {
        let Self { settings: s, reader, policy, responses, logp } = self;
        let columns = reader.space().response_tokens;
        if s.temperature == 1.0 && s.top_p == 1.0 {
            return invariants::sampled_logp_is_the_policys(
                step,
                &responses.logp,
                &host(logp.clone()),
                columns,
                || host(logprobs::response_logp(reader, &nudged(policy), responses)),
            );
        }
        let is_trained = s.trained_temperature() == s.temperature;
        let tempered = host(if is_trained { (*logp).clone() } else { self.at_temperature(policy) });
        let reread = || host(self.at_temperature(&nudged(policy)));
        invariants::sampled_logp_is_of_its_law(step, &responses.logp, &tempered, columns, s.top_p, reread)
    }

    /// The same where every second response is of a second policy, whose log-probs `[B, T]` these are.
    ///
    /// # Errors
    /// A broken invariant.
    pub fn check_alternating(self, step: u64, second: &Policy, second_logp: &Tensor<2>) -> Result<()> {
        for (first, policy, logp) in [(0, self.policy, self.logp), (1, second, second_logp)] {
            let rows: Vec<usize> = (first..self.responses.len()).step_by(2).collect();
            let logp = logp.clone().select(0, index(&rows, logp)); // [B/2, T]
            let responses = self.responses.select(&rows);
            let Self { settings, reader, .. } = self;
            SampledTokens { settings, reader, policy, responses: &responses, logp: &logp }.check(step)?;
        }
        Ok(())
    }

    /// The entropy of the policy at each token, `[B, T]`, where a setting reads it.
    pub fn entropies(self) -> Option<Tensor<2>> {
        let temperature = self.settings.trained_temperature();
        let read = |block: &Responses| {
            let logits = self.reader.logits(self.policy, &self.reader.tokens(block));
            entropy(tempered(logits, temperature)) // [b, T]
        };
        self.settings.reads_entropies().then(|| self.blocks(read))
    }

    /// The weight of each token, `[B, T]`, with the entropies of all; `None`: 1.
    pub fn weights(
        self,
        mask: &ResponseMask,
        entropies: Option<&Tensor<2>>,
        metrics: &mut Metrics,
    ) -> Option<Tensor<2>> {
        let s = self.settings;
        let importance = (!s.samples_trained_law()).then(|| self.importance_weights(metrics)); // [B, T]
        let high = entropies.filter(|_| s.top_entropy_quantile < 1.0);
        let high = high.map(|entropies| high_entropy_tokens(entropies.clone(), s.top_entropy_quantile, mask)); // [B, T]
        match (importance, high) {
            (Some(importance), Some(weights)) => Some(importance * weights),
            (importance, weights) => importance.or(weights),
        }
    }

    /// The policy's probability of each token over that of the law which it was sampled from, at most `importance_sampling_cap`,
    /// `[B, T]`. Yao et al. 2025 (truncated importance sampling).
    fn importance_weights(self, metrics: &mut Metrics) -> Tensor<2> {
        let Self { settings: s, responses, logp, .. } = self;
        let [rows, columns] = logp.dims();
        let (mut weights, mut tokens, mut capped) = (vec![1f32; rows * columns], 0.0, 0.0);
        for (cell, logp) in host(logp.clone()).into_iter().enumerate() {
            let Some(sampled) = responses.logp[cell / columns].get(cell % columns) else { continue };
            let weight = f64::from(logp - sampled).exp();
            weights[cell] = weight.min(s.importance_sampling_cap) as f32;
            tokens += 1.0;
            capped += f64::from(weight > s.importance_sampling_cap);
        }
        metrics.put(metrics::IMPORTANCE_CAPPED, capped / tokens);
        Tensor::from_data(TensorData::new(weights, [rows, columns]), &logp.device())
    }

    /// A policy's log-probs at the temperature of the samples, `[B, T]`.
    fn at_temperature(self, policy: &Policy) -> Tensor<2> {
        tempered_logp(self.reader, policy, self.responses, self.settings.temperature)
    }

    /// What `read` returns for some of the responses at a time, `[B, T]`.
    fn blocks(self, read: impl Fn(&Responses) -> Tensor<2>) -> Tensor<2> {
        let blocks = logprobs::blocks_of_logits(self.reader, self.responses);
        Tensor::cat(blocks.map(|block| read(&block)).collect(), 0)
    }
}
