//! The tokens and sizes of prompts and responses.

use serde::{Deserialize, Serialize};

/// A split of the prompts: for training, for model selection, for the reported results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    Train,
    Validation,
    Test,
}

impl Split {
    /// Every split, in the order of the enum.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// As written in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// Sizes and special tokens of a world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSpec {
    /// Tokens of the vocabulary, `V`.
    pub vocabulary: usize,
    pub pad: u32,
    pub bos: u32,
    /// Ends a response, and closes a trained one that has no end of its own.
    pub eos: u32,
    /// Other tokens that end a response just as EOS does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_eos: Vec<u32>,
    /// Tokens of a prompt, BOS included: `P`, the same for all prompts.
    pub prompt_tokens: usize,
    /// Columns of a response, EOS included: `T`.
    pub response_tokens: usize,
    /// The tokens a response may contain (EOS included), where the world restricts them: all others are masked and the
    /// probabilities renormalized.
    pub allowed_tokens: Option<Vec<u32>>,
    /// Whether the last column can only be EOS (log-probability 0), so that every response ends.
    pub force_eos: bool,
}

impl TokenSpec {
    /// Tokens of a prompt and its response together: the model's context.
    pub fn context(&self) -> usize {
        self.prompt_tokens + self.response_tokens
    }

    /// Whether a token ends a response: EOS, or another of its kind.
    pub fn ends_response(&self, id: u32) -> bool {
        id == self.eos || self.other_eos.contains(&id)
    }

    /// For each response column, the mask of forbidden tokens; `None` where all are allowed.
    pub fn forbidden_mask(&self) -> Option<Vec<Vec<bool>>> {
        let allowed = self.allowed_tokens.as_ref()?;
        let mut forbidden = vec![true; self.vocabulary];
        allowed.iter().for_each(|&id| forbidden[id as usize] = false);
        let only_eos: Vec<bool> = (0..self.vocabulary).map(|v| v as u32 != self.eos).collect();
        Some(
            (0..self.response_tokens)
                .map(
                    |t| {
                        if self.force_eos && t + 1 == self.response_tokens {
                            only_eos.clone()
                        } else {
                            forbidden.clone()
                        }
                    },
                )
                .collect(),
        )
    }
}
