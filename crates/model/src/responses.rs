//! A batch of prompts with their responses, on the host.

use crate::Tokens;
use burn::tensor::{Device, Tensor, TensorData};
use duel_spec::Space;

/// Responses to prompts. A response holds its counted tokens only: up to and including the first EOS.
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

    /// Whether a response closed with EOS.
    pub fn ended(&self, row: usize, space: &Space) -> bool {
        self.responses[row].last() == Some(&space.eos)
    }

    /// Some rows, in the given order.
    pub fn select(&self, rows: &[usize]) -> Self {
        let pick = |x: &Vec<Vec<u32>>| rows.iter().map(|&r| x[r].clone()).collect();
        let logp = if self.logp.is_empty() { vec![] } else { rows.iter().map(|&r| self.logp[r].clone()).collect() };
        Self { prompts: pick(&self.prompts), responses: pick(&self.responses), logp }
    }

    /// Prompts, padded on the left, and responses, padded on the right: `[B, P + T]`.
    pub fn tokens(&self, space: &Space, device: &Device) -> Tokens {
        let (p, t) = (space.prompt_tokens, space.response_tokens);
        let padding = |n: usize| std::iter::repeat_n(space.pad, n);
        let ids: Vec<i32> = self
            .prompts
            .iter()
            .zip(&self.responses)
            .flat_map(|(prompt, response)| {
                let prompt = padding(p - prompt.len()).chain(prompt.iter().copied());
                prompt.chain(response.iter().copied()).chain(padding(t - response.len())).map(|id| id as i32)
            })
            .collect();
        let ids = Tensor::from_data(TensorData::new(ids, [self.len(), p + t]), device);
        Tokens::marked(ids, self.prompts.iter().map(|prompt| p - prompt.len()).collect())
    }
}
