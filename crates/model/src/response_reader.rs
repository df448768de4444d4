//! Forward passes over prompts and responses, aligned with the response tokens: column j of every `[B, T]` here belongs to response
//! token j; its log-prob and its value are those given all tokens before it. No other place aligns columns.

use crate::{Policy, Responses, ScalarModel, Tokens};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use duel_spec::{ScorePooling, TokenSpec};
use std::sync::Arc;

/// Logits, log-probs, values and scores of the responses of one world, on one device.
#[derive(Debug, Clone)]
pub struct ResponseReader {
    space: TokenSpec,
    device: Device,
    /// `[1, T, V]`, true = the response cannot hold this token there.
    hidden: Option<Tensor<3, Bool>>,
    /// The same on the host, `[T, V]`.
    host_hidden: Option<Arc<Vec<bool>>>,
}

impl ResponseReader {
    /// `device` must be that of the models read (with or without autodiff).
    pub fn new(space: &TokenSpec, device: &Device) -> Self {
        let host_hidden = space.forbidden_mask().map(|rows| Arc::new(rows.concat()));
        let hidden = host_hidden.as_ref().map(|hidden| {
            let shape = [1, space.response_tokens, space.vocabulary];
            Tensor::from_data(TensorData::new(hidden.to_vec(), shape), device)
        });
        Self { space: space.clone(), device: device.clone(), hidden, host_hidden }
    }

    /// The same without a graph of gradients.
    pub fn valid(&self) -> Self {
        Self::new(&self.space, &self.device.clone().inner())
    }

    /// The world's sizes.
    pub fn space(&self) -> &TokenSpec {
        &self.space
    }

    /// Where the tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Prompts and responses `[B, P + T]`.
    pub fn tokens(&self, batch: &Responses) -> Tokens {
        batch.tokens(&self.space, &self.device)
    }

    /// Columns before the responses: the rest of the tokens' width.
    fn prompt_columns(&self, tokens: &Tokens) -> usize {
        tokens.ids.dims()[1] - self.space.response_tokens
    }

    /// The response tokens `[B, T]`.
    pub fn targets(&self, tokens: &Tokens) -> Tensor<2, Int> {
        tokens.ids.clone().narrow(1, self.prompt_columns(tokens), self.space.response_tokens)
    }

    /// Hidden states before each response token: `[B, T, D]` from `[B, P + T]`.
    pub fn hidden_states(&self, policy: &Policy, tokens: &Tokens) -> Tensor<3> {
        let (p, t) = (self.prompt_columns(tokens), self.space.response_tokens);
        policy.hidden_states(tokens.clone().narrow(0, p + t - 1), p - 1)
    }

    /// Logits of each response token, hidden ones at −1e30: `[B, T, V]` from `[B, P + T]`.
    pub fn logits(&self, policy: &Policy, tokens: &Tokens) -> Tensor<3> {
        self.logits_after(policy, self.hidden_states(policy, tokens))
    }

    /// The same from the policy's hidden states `[B, T, D]`.
    pub fn logits_after(&self, policy: &Policy, states: Tensor<3>) -> Tensor<3> {
        let TokenSpec { response_tokens: t, vocabulary: v, .. } = self.space;
        let [b, _, _] = states.dims();
        let logits = policy.unembed(states); // [B, T, V]
        match &self.hidden {
            Some(hidden) => logits.mask_fill(hidden.clone().expand([b, t, v]), -1e30),
            None => logits,
        }
    }

    /// Log-probs of the response tokens `[B, T]` from `[B, P + T]` without making logits; `None` where the device has no
    /// such operation.
    pub fn token_logprobs(&self, policy: &Policy, tokens: &Tokens) -> Option<Tensor<2>> {
        policy.token_logprobs(|| self.hidden_states(policy, tokens), self.targets(tokens), self.host_hidden.clone())
    }

    /// The same from the policy's hidden states `[B, T, D]`.
    pub fn token_logprobs_from_hidden(&self, policy: &Policy, states: Tensor<3>, tokens: &Tokens) -> Option<Tensor<2>> {
        policy.token_logprobs(|| states, self.targets(tokens), self.host_hidden.clone())
    }

    /// Value of the state before each response token: `[B, T]`.
    pub fn values(&self, critic: &ScalarModel, tokens: &Tokens) -> Tensor<2> {
        let (p, t) = (self.prompt_columns(tokens), self.space.response_tokens);
        critic.forward(tokens.clone().narrow(0, p + t - 1)).narrow(1, p - 1, t)
    }

    /// Score of each response, on its last token or the mean over its counted tokens, as the model has it: `[B]`.
    pub fn scores(&self, model: &ScalarModel, batch: &Responses) -> Tensor<1> {
        let tokens = self.tokens(batch);
        let (p, t) = (self.prompt_columns(&tokens), self.space.response_tokens);
        let numbers = model.forward(tokens); // [B, P + T]
        match model.score {
            ScorePooling::Last => {
                let last: Vec<i32> = batch.responses.iter().map(|r| (p + r.len() - 1) as i32).collect();
                let last = Tensor::<2, Int>::from_data(TensorData::new(last, [batch.len(), 1]), &self.device);
                numbers.gather(1, last).squeeze_dim::<1>(1)
            }
            ScorePooling::Mean => {
                let share = |row: usize, length: usize, i: usize| {
                    if batch.is_counted(row, i) { 1.0 / length as f32 } else { 0.0 }
                };
                let lengths = batch.lengths().into_iter().enumerate();
                let shares: Vec<f32> =
                    lengths.flat_map(|(row, length)| (0..t).map(move |i| share(row, length, i))).collect();
                let shares = Tensor::<2>::from_data(TensorData::new(shares, [batch.len(), t]), &self.device);
                (numbers.narrow(1, p, t) * shares).sum_dim(1).squeeze_dim::<1>(1)
            }
        }
    }
}
