//! A row token by token, as a training sees it.

use super::reader::{DecidedRow, RowSource, RowUse};
use crate::{Result, TextTokenizer};
use serde::Serialize;
use std::path::PathBuf;

/// A token of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenView {
    pub id: u32,
    /// What it adds to the text; of one that holds a part of a character, its name in the vocabulary.
    pub text: String,
    /// Whether it is a control token, such as EOS.
    pub is_control: bool,
    /// Whether the loss is on it; the others are context.
    pub is_trained: bool,
}

/// The prompt, or a completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SequencePart {
    pub name: &'static str,
    pub tokens: Vec<TokenView>,
}

/// A row that is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowTokens {
    pub file: PathBuf,
    pub line: usize,
    pub split: &'static str,
    /// What was found in it, and what was done to it.
    pub notes: Vec<String>,
    /// The prompt, then its completions.
    pub parts: Vec<SequencePart>,
}

impl RowTokens {
    /// The tokens of a row, if it is used.
    ///
    /// # Errors
    /// Ids that the tokenizer cannot decode.
    pub(crate) fn of(row: &DecidedRow, source: &RowSource, tokenizer: &TextTokenizer) -> Result<Option<Self>> {
        let (RowUse::Whole(split) | RowUse::Prompt(split)) = row.usage else { return Ok(None) };
        let names = row.record.parts().into_iter().map(|(name, _)| name);
        let masks = row.encoded.masks.iter();
        let completions = row.encoded.completions.iter().zip(masks).map(|(ids, mask)| {
            let is_trained = |index| mask.as_ref().is_none_or(|mask| mask.contains(index));
            (ids, (0..ids.len()).map(is_trained).collect())
        });
        let context = vec![false; row.encoded.prompt.len()];
        let sequences = std::iter::once((&row.encoded.prompt, context)).chain(completions);
        let is_unused = matches!(row.usage, RowUse::Prompt(_)) && !row.encoded.completions.is_empty();
        if is_unused {
            return Ok(None);
        }
        let controls = tokenizer.controls();
        let part = |(name, (ids, mask)): (&'static str, (&Vec<u32>, Vec<bool>))| {
            let view = |(&id, is_trained): (&u32, bool)| {
                let is_control = controls.binary_search(&id).is_ok();
                Ok(TokenView { id, text: token_text(tokenizer, id)?, is_control, is_trained })
            };
            Ok(SequencePart { name, tokens: ids.iter().zip(mask).map(view).collect::<Result<_>>()? })
        };
        Ok(Some(Self {
            file: source.files[row.file].1.clone(),
            line: row.line,
            split: split.name(),
            notes: row.findings.iter().map(|(_, what)| what.clone()).collect(),
            parts: names.zip(sequences).map(part).collect::<Result<_>>()?,
        }))
    }
}

/// What a token adds to a text: decoders drop the space before the first token of a text, so that it is read behind itself.
fn token_text(tokenizer: &TextTokenizer, id: u32) -> Result<String> {
    let name = tokenizer.token(id).unwrap_or_else(|| format!("id {id}"));
    let (once, twice) = (tokenizer.decode(&[id])?, tokenizer.decode(&[id, id])?);
    Ok(match twice.strip_prefix(&once) {
        Some(text) if !text.is_empty() && !text.contains('\u{fffd}') => text.into(),
        _ => name,
    })
}
