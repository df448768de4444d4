//! From logits to log-probabilities of given tokens.

use burn::tensor::{Int, Tensor, activation::log_softmax};

/// `log p(token)` under the softmax of the logits.
///
/// # Shapes
/// `logits`: `[B, T, V]`, column t predicts `tokens[:, t]`; `tokens`: `[B, T]`; returns `[B, T]`.
/// # Units
/// Nats.
pub fn token_logp(logits: Tensor<3>, tokens: Tensor<2, Int>) -> Tensor<2> {
    log_softmax(logits, 2).gather(2, tokens.unsqueeze_dim::<3>(2)).squeeze_dim::<2>(2) // [B, T]
}

/// Entropy of the softmax of the logits, `-Σ_v p log p`.
///
/// # Shapes
/// `logits`: `[B, T, V]`; returns `[B, T]`.
/// # Units
/// Nats.
pub fn entropy(logits: Tensor<3>) -> Tensor<2> {
    let logp = log_softmax(logits, 2); // [B, T, V]
    (logp.clone().exp() * logp).sum_dim(2).neg().squeeze_dim::<2>(2) // [B, T]
}
