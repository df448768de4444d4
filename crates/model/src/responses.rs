//! A batch of prompts with their responses, on the host.

use crate::Tokens;
use burn::tensor::Device;
use duel_spec::{LossMask, TokenSpec, ids::prompt_hash};

/// Responses to prompts. A response without a mask holds its counted tokens only: up to and including the first EOS, of
/// which a model may have several. One with a mask holds several turns, of which the mask counts the assistant's, each up to and
/// including its first EOS; the others are context.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Responses {
    /// 1 to `P` ids each.
    pub prompts: Vec<Vec<u32>>,
    /// 1 to `T` ids each.
    pub responses: Vec<Vec<u32>>,
    /// Log-probability of each response token under the policy that wrote it; empty if not sampled.
    pub logp: Vec<Vec<f32>>,
    /// The counted tokens of each response, where not all are; empty if all are in every response.
    pub masks: Vec<Option<LossMask>>,
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

    /// The mask of a response in which not all tokens count.
    pub fn mask(&self, row: usize) -> Option<&LossMask> {
        self.masks.get(row).and_then(Option::as_ref)
    }

    /// Whether a token of a response counts.
    pub fn is_counted(&self, row: usize, index: usize) -> bool {
        index < self.responses[row].len() && self.mask(row).is_none_or(|mask| mask.contains(index))
    }

    /// The counted ids of a response: one piece, or one of each turn that counts.
    pub fn counted(&self, row: usize) -> Vec<&[u32]> {
        self.mask(row).map_or_else(|| vec![self.responses[row].as_slice()], |mask| mask.pieces(&self.responses[row]))
    }

    /// Counted tokens of each response.
    pub fn lengths(&self) -> Vec<usize> {
        (0..self.len()).map(|row| self.mask(row).map_or(self.responses[row].len(), LossMask::count)).collect()
    }

    /// Counted tokens of all responses.
    pub fn response_tokens(&self) -> u64 {
        self.lengths().iter().map(|length| *length as u64).sum()
    }

    /// Tokens of prompts and responses together, which a model reads.
    pub fn token_count(&self) -> u64 {
        self.prompts.iter().chain(&self.responses).map(|ids| ids.len() as u64).sum()
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
        let is_masked = rows.iter().any(|&row| self.mask(row).is_some());
        let masks = if is_masked { rows.iter().map(|&row| self.mask(row).cloned()).collect() } else { vec![] };
        Self { prompts: pick(&self.prompts), responses: pick(&self.responses), logp, masks }
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
