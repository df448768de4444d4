//! A batch of prompts with their responses, on the host.

use crate::Tokens;
use burn::tensor::Device;
use duel_spec::{TokenSpec, ids::prompt_hash};

/// Responses to prompts. A response holds its counted tokens only: up to and including the first EOS, of
/// which a model may have several.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Responses {
    /// 1 to `P` ids each.
    pub prompts: Vec<Vec<u32>>,
    /// 1 to `T` ids each.
    pub responses: Vec<Vec<u32>>,
    /// Log-probability of each response token under the policy that wrote it; empty if not sampled.
    pub logp: Vec<Vec<f32>>,
}

impl Responses {
    /// Rows of the batch, `B`.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// Counted tokens of each response.
    pub fn lengths(&self) -> Vec<usize> {
        self.responses.iter().map(Vec::len).collect()
    }

    /// Counted tokens of all responses.
    pub fn response_tokens(&self) -> u64 {
        self.responses.iter().map(|r| r.len() as u64).sum()
    }

    /// Prompt tokens and counted response tokens together.
    pub fn token_count(&self) -> u64 {
        self.prompts.iter().map(|p| p.len() as u64).sum::<u64>() + self.response_tokens()
    }

    /// A hash of each row's prompt, `[B]`.
    pub fn prompt_hashes(&self) -> Vec<u64> {
        self.prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    /// Whether a response closed with EOS.
    pub fn ended(&self, row: usize, space: &TokenSpec) -> bool {
        self.responses[row].last().is_some_and(|&id| space.ends_response(id))
    }

    /// The first `n` rows, or all.
    pub fn first(&self, n: usize) -> Self {
        self.select(&(0..n.min(self.len())).collect::<Vec<_>>())
    }

    /// Some rows, in the given order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let pick = |x: &Vec<Vec<u32>>| rows.iter().map(|&r| x[r].clone()).collect();
        let logp = if self.logp.is_empty() { vec![] } else { rows.iter().map(|&r| self.logp[r].clone()).collect() };
        Self { prompts: pick(&self.prompts), responses: pick(&self.responses), logp }
    }

    /// Prompts, padded on the left to the longest of them, and responses, padded on the right: `[B, P + T]`.
    pub fn tokens(&self, space: &TokenSpec, device: &Device) -> Tokens {
        let pad = |n: usize| std::iter::repeat_n(space.pad, n);
        let row = |(prompt, response): (&Vec<u32>, &Vec<u32>)| {
            let rest = space.response_tokens - response.len();
            prompt.iter().chain(response).copied().chain(pad(rest)).collect()
        };
        let rows: Vec<Vec<u32>> = self.prompts.iter().zip(&self.responses).map(row).collect();
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(space.prompt_tokens);
        Tokens::pad_left(&rows, longest + space.response_tokens, space.pad, device)
    }
}
