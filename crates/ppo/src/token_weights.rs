//! What multiplies the advantages of the tokens of a rollout: importance weights where another law sampled them, and whether their
//! entropy is high.

use crate::invariants;
use burn::tensor::{Tensor, TensorData};
use duel_model::{Policy, ResponseReader, Responses, weights::host};
use duel_objectives::{ResponseMask, entropy, high_entropy_tokens, token_logp};
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
        if s.is_sampled_by_policy() {
            return invariants::sampled_logp_is_the_policys(
                step,
                &responses.logp,
                &host(logp.clone()),
                columns,
                || host(logprobs::response_logp(reader, &nudged(policy), responses)),
            );
        }
        let tempered = host(self.tempered_logp(policy));
        let reread = || host(self.tempered_logp(&nudged(policy)));
        invariants::sampled_logp_is_of_its_law(step, &responses.logp, &tempered, columns, s.top_p, reread)
    }

    /// The weight of each token, `[B, T]`; `None`: 1.
    pub fn weights(self, mask: &ResponseMask, metrics: &mut Metrics) -> Option<Tensor<2>> {
        let s = self.settings;
        let importance = (!s.is_sampled_by_policy()).then(|| self.importance_weights(metrics)); // [B, T]
        let entropies = (s.top_entropy_quantile < 1.0).then(|| {
            let entropies = self.blocks(|block| entropy(self.reader.logits(self.policy, &self.reader.tokens(block))));
            high_entropy_tokens(entropies, s.top_entropy_quantile, mask) // [B, T]
        });
        match (importance, entropies) {
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

    /// A policy's log-probs at the temperature, `[B, T]`.
    fn tempered_logp(self, policy: &Policy) -> Tensor<2> {
        self.blocks(|block| {
            let tokens = self.reader.tokens(block);
            let logits = self.reader.logits(policy, &tokens) / self.settings.temperature; // [b, T, V]
            token_logp(logits, self.reader.targets(&tokens))
        })
    }

    /// What `read` returns for some of the responses at a time, `[B, T]`.
    fn blocks(self, read: impl Fn(&Responses) -> Tensor<2>) -> Tensor<2> {
        let blocks = logprobs::blocks_of_logits(self.reader, self.responses);
        Tensor::cat(blocks.map(|block| read(&block)).collect(), 0)
    }
}
