//! Matrix-multiply FLOPs by one rule (docs/verdicts.md, FLOPs): 2N per token forward, 4N backward, with N the matrix
//! parameters, plus attention `2·layers·context·width` per forward token where context > 6·width.

use crate::TransformerConfig;

/// Counts the FLOPs of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flops {
    /// FLOPs of one token's forward pass.
    pub forward: f64,
}

impl Flops {
    /// Of a policy: its matrices and its head.
    pub fn policy(config: &TransformerConfig) -> Self {
        Self::new(config, config.vocabulary)
    }

    /// Of a reward or value model: its matrices and a head of one output.
    pub fn scalar(config: &TransformerConfig) -> Self {
        Self::new(config, 1)
    }

    /// Of a policy's head alone, from its hidden states.
    pub fn head(config: &TransformerConfig) -> Self {
        Self { forward: 2.0 * (config.width * config.vocabulary) as f64 }
    }

    fn new(config: &TransformerConfig, outputs: usize) -> Self {
        let parameters = (config.layers * config.block_matrices() + config.width * outputs) as f64;
        let (context, width) = (config.context as f64, config.width as f64);
        let attention = if context > 6.0 * width { 2.0 * config.layers as f64 * context * width } else { 0.0 };
        Self { forward: 2.0 * parameters + attention }
    }

    /// FLOPs of forward passes over so many tokens.
    pub fn forward(&self, tokens: u64) -> f64 {
        self.forward * tokens as f64
    }

    /// FLOPs of training on so many tokens: forward and backward.
    pub fn train(&self, tokens: u64) -> f64 {
        3.0 * self.forward(tokens)
    }
}
