//! The interface of a world.

use crate::Result;
use crate::records::Content;
use duel_spec::{LossMask, Split, TokenSpec, seeds::Rng};

/// A prompt and its split.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Its index among all prompts of the world.
    pub index: usize,
    pub split: Split,
    /// `P` ids, BOS first.
    pub ids: Vec<u32>,
    /// As text.
    pub text: String,
}

/// A prompt with one response: a row for SFT.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptResponse {
    /// `P` ids.
    pub prompt: Vec<u32>,
    /// At most `T` ids, ending with EOS unless cut.
    pub response: Vec<u32>,
    /// The tokens of the response that carry the loss; `None`: all.
    pub mask: Option<LossMask>,
}

/// A source of prompts, and the meaning of their ids.
pub trait World: Send + Sync {
    /// Sizes and special tokens.
    fn space(&self) -> &TokenSpec;
    /// The prompts of a split, in their fixed order.
    fn prompts(&self, split: Split) -> &[Prompt];
    /// The rows of the SFT corpus, drawn anew from `rng`.
    fn sft_rows(&self, rng: &mut Rng) -> Vec<PromptResponse>;
    /// Rows that are not in the SFT corpus, for its held-out loss.
    fn heldout_rows(&self, rng: &mut Rng) -> Vec<PromptResponse>;
    /// Whether a response may be used in a preference row.
    fn allowed_in_pairs(&self, response: &[u32]) -> bool;
    /// A prompt from the user's text.
    ///
    /// # Errors
    /// Text that is not a prompt of this world.
    fn read_prompt(&self, text: &str) -> Result<Prompt>;
    /// A response as text, after its prompt.
    fn render(&self, prompt: &Prompt, response: &[u32]) -> Result<String>;
}

/// Worlds whose ids are text.
pub trait Detokenize: Send + Sync {
    /// The text of ids, without special tokens.
    ///
    /// # Errors
    /// Ids that the tokenizer does not know.
    fn text(&self, ids: &[u32]) -> Result<String>;

    /// A prompt as another model may read it: the turns of its conversation where it has any, otherwise its text.
    ///
    /// # Errors
    /// A prompt that is none of this world's.
    fn conversation(&self, prompt: &[u32]) -> Result<Content> {
        Ok(Content::Text(self.text(prompt)?))
    }
}
