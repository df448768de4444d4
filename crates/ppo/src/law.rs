//! The law whose log-probs are trained: the policy's at temperature 1, or at the temperature of the samples.

use burn::tensor::Tensor;
use duel_model::{Policy, ResponseReader, Responses};
use duel_objectives::token_logp;
use duel_training::logprobs;

/// Logits at a temperature, `[b, T, V]`.
pub fn tempered(logits: Tensor<3>, temperature: f64) -> Tensor<3> {
    if temperature == 1.0 { logits } else { logits / temperature }
}

/// A policy's log-probs at a temperature from its logits, `[B, T]`.
pub fn logp_from_logits(reader: &ResponseReader, policy: &Policy, batch: &Responses, temperature: f64) -> Tensor<2> {
    let tokens = reader.tokens(batch);
    token_logp(tempered(reader.logits(policy, &tokens), temperature), reader.targets(&tokens))
}

/// The same of any number of responses, in blocks that bound memory; `reader` and `policy` carry no gradient.
pub fn tempered_logp(reader: &ResponseReader, policy: &Policy, responses: &Responses, temperature: f64) -> Tensor<2> {
    let blocks = logprobs::blocks_of_logits(reader, responses);
    Tensor::cat(blocks.map(|block| logp_from_logits(reader, policy, &block, temperature)).collect(), 0)
}
