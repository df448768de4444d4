//! The world of the user's own rows, as prepared.

use super::conversations::Conversations;
use super::prepare::{PROMPTS, ROWS};
use crate::chat::Message;
use crate::encode::Encoder;
use crate::pairs::PreferenceRow;
use crate::records::Content;
use crate::{Detokenize, Error, Prompt, PromptResponse, Result, World};
use duel_spec::{Split, TokenSpec, seeds::Rng};
use rand::seq::SliceRandom;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

/// The prepared world.
#[derive(Debug)]
pub struct RowsWorld {
    space: TokenSpec,
    encoder: Encoder,
    rows: Vec<PreferenceRow>,
    splits: [Vec<Prompt>; 3],
    /// Prompts as they stood in the rows, where they were kept, and those typed since.
    conversations: RwLock<Conversations>,
}

impl RowsWorld {
    /// Opens what `prepare` wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn open(folder: &Path, encoder: Encoder, space: TokenSpec) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| Error::Read { path, source })
        };
        let damaged = |name: &str, e: serde_json::Error| Error::Row {
            path: folder.join(name),
            row: e.line(),
            problem: e.to_string(),
        };
        let rows = serde_json::Deserializer::from_slice(&read(ROWS)?)
            .into_iter()
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| damaged(ROWS, e))?;
        let prompts: [Vec<Vec<u32>>; 3] = serde_json::from_slice(&read(PROMPTS)?).map_err(|e| damaged(PROMPTS, e))?;
        let mut splits = [vec![], vec![], vec![]];
        let mut index = 0;
        for (split, prompts) in Split::ALL.into_iter().zip(prompts) {
            for ids in prompts {
                let text = encoder.tokenizer().decode(&ids)?;
                splits[split as usize].push(Prompt { index, split, ids, text });
                index += 1;
            }
        }
        let conversations = RwLock::new(Conversations::read(folder)?);
        Ok(Self { space, encoder, rows, splits, conversations })
    }

    /// The preference rows of all splits.
    pub fn rows(&self) -> &[PreferenceRow] {
        &self.rows
    }

    fn chosen(&self, split: Split) -> Vec<PromptResponse> {
        let rows = self.rows.iter().filter(|row| row.split == split);
        rows.map(|row| PromptResponse {
            prompt: row.prompt.clone(),
            response: row.chosen.clone(),
            mask: row.chosen_mask.clone(),
        })
        .collect()
    }
}

impl Detokenize for RowsWorld {
    fn text(&self, ids: &[u32]) -> Result<String> {
        self.encoder.tokenizer().decode(ids)
    }

    fn conversation(&self, prompt: &[u32]) -> Result<Content> {
        let conversations = self.conversations.read().unwrap_or_else(PoisonError::into_inner);
        let problem = || format!("a prompt of {} tokens is not among the rows as text", prompt.len());
        conversations.get(prompt).cloned().ok_or_else(|| Error::Unfit { problem: problem() })
    }
}

impl World for RowsWorld {
    fn space(&self) -> &TokenSpec {
        &self.space
    }

    fn prompts(&self, split: Split) -> &[Prompt] {
        &self.splits[split as usize]
    }

    /// The chosen completions of training prompts.
    fn sft_rows(&self, rng: &mut Rng) -> Vec<PromptResponse> {
        let mut rows = self.chosen(Split::Train);
        rows.shuffle(rng);
        rows
    }

    fn heldout_rows(&self, _: &mut Rng) -> Vec<PromptResponse> {
        self.chosen(Split::Validation)
    }

    fn allowed_in_pairs(&self, _: &[u32]) -> bool {
        true
    }

    /// A prompt typed by the user; a conversation of one turn where the model has a template.
    fn read_prompt(&self, text: &str) -> Result<Prompt> {
        let turn = Content::from(vec![Message::new("user", text)]);
        let (ids, prompt) = match self.encoder.prompt(&turn) {
            Ok(ids) => (ids, turn),
            Err(_) => (self.encoder.prompt(&Content::Text(text.into()))?, Content::Text(text.into())),
        };
        if ids.is_empty() || ids.len() > self.space.prompt_tokens {
            return Err(Error::NoPrompt {
                text: text.into(),
                found: format!("it has {} tokens", ids.len()),
                accepted: format!("prompts here have 1 to {} tokens", self.space.prompt_tokens),
            });
        }
        self.conversations.write().unwrap_or_else(PoisonError::into_inner).insert(&ids, &prompt);
        Ok(Prompt { index: usize::MAX, split: Split::Test, ids, text: text.into() })
    }

    fn render(&self, _: &Prompt, response: &[u32]) -> Result<String> {
        self.text(response)
    }
}
