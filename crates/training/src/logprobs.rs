//! Log-probabilities of responses under a policy, and the masks of their counted tokens.

use burn::tensor::Tensor;
use duel_model::{Policy, ResponseReader, Responses, Tokens, weights};
use duel_objectives::{ResponseMask, token_logp};

/// Tokens per forward pass without gradient.
pub const TOKENS: usize = 1 << 12;

/// Elements per tensor of logits.
const LOGITS: usize = 1 << 24;

/// The batch's mask on the reader's device.
pub fn mask(reader: &ResponseReader, batch: &Responses) -> ResponseMask {
    let columns = reader.space().response_tokens;
    let counted = |row: usize| (0..columns).map(move |column| batch.is_counted(row, column));
    ResponseMask::from_counted((0..batch.len()).flat_map(counted).collect(), columns, reader.device()) // [B, T]
}

/// Log-probability of each response token, `[B, T]`; columns past the response are undefined.
pub fn response_logp(reader: &ResponseReader, policy: &Policy, batch: &Responses) -> Tensor<2> {
    tokens_logp(reader, policy, &reader.tokens(batch))
}

/// The same of tokens `[B, P + T]`: in one fused operation where the device has it, otherwise from logits.
pub fn tokens_logp(reader: &ResponseReader, policy: &Policy, tokens: &Tokens) -> Tensor<2> {
    let fused = reader.token_logprobs(policy, tokens);
    fused.unwrap_or_else(|| token_logp(reader.logits(policy, tokens), reader.targets(tokens)))
}

/// Log-probability of each response, summed over its counted tokens, in blocks of rows that bound memory; `reader` and
/// `policy` carry no gradient.
pub fn sequence_logp(reader: &ResponseReader, policy: &Policy, batch: &Responses) -> Vec<f32> {
    blocks(batch, reader.space().context(), TOKENS)
        .flat_map(|block| {
            let logp = response_logp(reader, policy, &block);
            weights::host(mask(reader, &block).row_sums(logp))
        })
        .collect()
}

/// Mean negative log-likelihood over held-out rows, nats: per token, and per response.
pub fn heldout_nll(reader: &ResponseReader, policy: &Policy, batch: &Responses) -> (f64, f64) {
    let total: f64 = sequence_logp(reader, policy, batch).iter().map(|&x| -f64::from(x)).sum();
    (total / batch.response_tokens() as f64, total / batch.len() as f64)
}

/// A batch cut into blocks of at most 256 rows and `limit` elements, at `elements` per row.
pub fn blocks(batch: &Responses, elements: usize, limit: usize) -> impl Iterator<Item = Responses> {
    let size = (limit / elements.max(1)).clamp(1, 256);
    (0..batch.len()).step_by(size).map(move |start| {
        let rows: Vec<usize> = (start..batch.len().min(start + size)).collect();
        batch.select(&rows)
    })
}

/// Blocks small enough for their logits `[B, T, V]`.
pub fn blocks_of_logits(reader: &ResponseReader, batch: &Responses) -> impl Iterator<Item = Responses> {
    let space = reader.space();
    blocks(batch, space.response_tokens * space.vocabulary, LOGITS)
}
