//! What the pipeline asks of a world.

use crate::Result;
use duel_spec::{Split, TokenSpec, seeds::Rng};

/// A prompt and where it stands in the split.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Its number among all prompts of the world.
    pub index: usize,
    pub split: Split,
    /// `P` ids, BOS first.
    pub ids: Vec<u32>,
    /// As a person reads it.
    pub text: String,
}

/// A prompt with one response: what SFT fits.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptResponse {
    /// `P` ids.
    pub prompt: Vec<u32>,
    /// At most `T` ids, closed with EOS unless cut.
    pub response: Vec<u32>,
}

/// Where prompts come from, and how ids read.
pub trait World: Send + Sync {
    /// Sizes and special tokens.
    fn space(&self) -> &TokenSpec;
    /// The prompts of a split, in their fixed order.
    fn prompts(&self, split: Split) -> &[Prompt];
    /// The rows of the SFT corpus, drawn anew from `rng`.
    fn sft_rows(&self, rng: &mut Rng) -> Vec<PromptResponse>;
    /// Rows that the SFT corpus leaves out, for its held-out loss.
    fn heldout_rows(&self, rng: &mut Rng) -> Vec<PromptResponse>;
    /// Whether a response may stand in a preference row.
    fn allowed_in_pairs(&self, response: &[u32]) -> bool;
    /// A prompt from what a person writes.
    ///
    /// # Errors
    /// Words that are no prompt of this world, with those that are.
    fn read_prompt(&self, text: &str) -> Result<Prompt>;
    /// A response as a person reads it after its prompt.
    fn render(&self, prompt: &Prompt, response: &[u32]) -> Result<String>;
}

/// Worlds whose ids are text.
pub trait Detokenize: Send + Sync {
    /// Text of the ids, specials left out.
    ///
    /// # Errors
    /// Ids that the tokenizer does not know.
    fn text(&self, ids: &[u32]) -> Result<String>;
}
