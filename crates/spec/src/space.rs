//! The shape of a task: what prompts and responses are made of.

use serde::{Deserialize, Serialize};

/// Which prompts: those trained on, those choices are made on, those reported once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Validation,
    Test,
}

impl Split {
    /// As written in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Sizes and special tokens of a world, for whoever reads or writes its ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSpec {
    /// Tokens of the vocabulary, `V`.
    pub vocabulary: usize,
    pub pad: u32,
    pub bos: u32,
    pub eos: u32,
    /// Tokens of a prompt, BOS included: `P`, the same for all prompts.
    pub prompt_tokens: usize,
    /// Columns of a response, EOS included: `T`.
    pub response_tokens: usize,
    /// The tokens a response may hold (EOS among them), where the world restricts them: all others
    /// are masked out and the rest renormalised.
    pub allowed_tokens: Option<Vec<u32>>,
    /// Whether the last column can only be EOS (log-probability 0), so that every response ends.
    pub force_eos: bool,
}

impl TokenSpec {
    /// Tokens of a prompt and its response together: the model's context.
    pub fn context(&self) -> usize {
        self.prompt_tokens + self.response_tokens
    }

    /// For each response column, which tokens are hidden; `None` where nothing is.
    pub fn forbidden_mask(&self) -> Option<Vec<Vec<bool>>> {
        let actions = self.allowed_tokens.as_ref()?;
        let mut free = vec![true; self.vocabulary];
        actions.iter().for_each(|&id| free[id as usize] = false);
        let only_eos: Vec<bool> = (0..self.vocabulary).map(|v| v as u32 != self.eos).collect();
        Some(
            (0..self.response_tokens)
                .map(|t| if self.force_eos && t + 1 == self.response_tokens { only_eos.clone() } else { free.clone() })
                .collect(),
        )
    }
}
