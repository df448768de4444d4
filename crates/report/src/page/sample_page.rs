//! A page of responses, side by side, token by token.

use crate::error::Result;
use crate::page::template::fill_template;
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;

/// A token of a response and its log-ratio to the reference, nats.
#[derive(Debug, Clone, Serialize)]
pub struct TokenSpan {
    pub text: String,
    pub log_ratio: f64,
}

/// A response with its numbers.
#[derive(Debug, Clone, Serialize)]
pub struct SampledResponse {
    pub prompt: String,
    pub arm: String,
    pub point: String,
    pub seed: u64,
    pub pieces: Vec<TokenSpan>,
    /// `None` where it was not judged.
    pub gold_reward: Option<f64>,
    pub proxy_reward: f64,
    /// KL of the policy to the reference over the whole vocabulary, summed over this response's prefixes, nats.
    pub kl: f64,
    /// log π(y|x) − log π_ref(y|x), nats.
    pub log_ratio: f64,
    pub ended: bool,
}

/// The page of them.
///
/// # Errors
/// None that the user can cause.
pub fn page(all: &[SampledResponse], run: &str) -> Result<String> {
    fill_template("sample_page.html", context! { all => Serde(all), run })
}
