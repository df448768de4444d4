//! A person's rows as ids: through the model's chat template where they are conversations, as they stand where they are text.

use crate::chat::{ChatTemplate, Message};
use crate::records::{Content, Record};
use crate::{Error, Result, TextTokenizer};

/// A prompt with its completions, as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRow {
    pub prompt: Vec<u32>,
    /// What was preferred, then what was not; one of a judged row; none of a prompt alone.
    pub completions: Vec<Vec<u32>>,
    /// Whether the ids of prompt and completion, made apart, are those of both in one piece.
    pub boundary_holds: bool,
    /// Whether a completion goes on after its first EOS, which ends it.
    pub is_cut: bool,
}

/// Turns what is said into ids.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    eos: u32,
    /// Ids that no completion may hold, in rising order: control tokens but EOS, and PAD.
    barred: Vec<u32>,
    /// Ids that the model has a row for.
    vocabulary: usize,
}

impl Encoder {
    /// `eos` closes every completion; a completion may hold no other control token.
    pub fn new(tokenizer: TextTokenizer, template: Option<ChatTemplate>, eos: u32) -> Self {
        let barred = tokenizer.controls().into_iter().filter(|id| *id != eos).collect();
        Self { tokenizer, template, eos, barred, vocabulary: usize::MAX }
    }

    /// For a model with so many rows in its embedding, which pads with `pad`.
    #[must_use]
    pub fn for_model(mut self, vocabulary: usize, pad: u32) -> Self {
        self.vocabulary = vocabulary;
        if pad != self.eos && !self.barred.contains(&pad) {
            self.barred.push(pad);
            self.barred.sort_unstable();
        }
        self
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// A prompt that stands alone.
    ///
    /// # Errors
    /// A conversation where the model has no template, or one that its template refuses.
    pub fn prompt(&self, prompt: &Content) -> Result<Vec<u32>> {
        let ids = match prompt {
            Content::Text(text) => self.prompt_ids(prompt, text)?,
            Content::Turns(turns) => self.prompt_ids(prompt, &self.template()?.render(turns, true)?)?,
        };
        self.check_ids(&ids, "prompt")?;
        Ok(ids)
    }

    /// The texts of a prompt and one completion.
    fn texts(&self, prompt: &Content, completion: &Content) -> Result<(String, String)> {
        match (prompt, completion) {
            (Content::Text(prompt), Content::Text(answer)) => Ok((prompt.clone(), answer.clone())),
            (Content::Turns(prompt), Content::Turns(answer)) => self.template()?.split(prompt, answer),
            (Content::Turns(prompt), Content::Text(answer)) => {
                self.template()?.split(prompt, &[Message { role: "assistant".into(), content: answer.clone() }])
            }
            (Content::Text(_), Content::Turns(_)) => {
                Err(Error::Template { problem: "the prompt is text, but its completion is turns".into() })
            }
        }
    }

    /// The ids of a text that a prompt begins; a template has put there what a tokenizer puts before plain text.
    fn prompt_ids(&self, prompt: &Content, text: &str) -> Result<Vec<u32>> {
        match prompt {
            Content::Text(_) => self.tokenizer.encode_start(text),
            Content::Turns(_) => self.tokenizer.encode_part(text),
        }
    }

    /// A completion ends with its first EOS; also whether anything is lost after it.
    fn end_at_eos(&self, mut answer: Vec<u32>) -> Result<(Vec<u32>, bool)> {
        match answer.iter().position(|id| *id == self.eos) {
            Some(end) => {
                let rest = answer.split_off(end + 1);
                let is_cut = rest.contains(&self.eos) || !self.tokenizer.decode(&rest)?.trim().is_empty();
                Ok((answer, is_cut))
            }
            None => {
                answer.push(self.eos);
                Ok((answer, false))
            }
        }
    }

    /// A token as a person knows it.
    fn display_token(&self, id: u32) -> String {
        self.tokenizer.token(id).map_or_else(|| id.to_string(), |token| format!("{token}` (id {id})"))
    }

    /// Ids that the model can read.
    fn check_ids(&self, ids: &[u32], name: &str) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(&id) => Err(Error::Unfit {
                problem: format!(
                    "`{name}` has the token `{}, and the model reads ids below {}",
                    self.display_token(id),
                    self.vocabulary
                ),
            }),
            None => Ok(()),
        }
    }

    /// What a response can be: the model never says a control token but EOS, at its end.
    fn check_representable(&self, answer: &[u32], name: &str) -> Result<()> {
        match answer.iter().find(|id| self.barred.binary_search(id).is_ok()) {
            Some(&id) => Err(Error::Unfit {
                problem: format!(
                    "`{name}` has the control token `{}, and a response may have none but `{} at its end",
                    self.display_token(id),
                    self.display_token(self.eos)
                ),
            }),
            None => Ok(()),
        }
    }

    /// A row as ids.
    ///
    /// # Errors
    /// As [`Self::prompt`]; a prompt without tokens, ids that the model does not have, completions that it could not say.
    pub fn encode(&self, record: &Record) -> Result<EncodedRow> {
        let (prompt, completions) = match record {
            Record::Pair { prompt, chosen, rejected, .. } => (prompt, vec![(chosen, "chosen"), (rejected, "rejected")]),
            Record::Judged { prompt, completion, .. } => (prompt, vec![(completion, "completion")]),
            Record::Prompt { prompt } => (prompt, vec![]),
        };
        let mut encoded = EncodedRow { prompt: vec![], completions: vec![], boundary_holds: true, is_cut: false };
        let mut read = None; // the prompt's text, which is mostly that of all completions
        for (completion, name) in &completions {
            let (before, rest) = self.texts(prompt, completion)?;
            if read.as_ref() != Some(&before) {
                encoded.prompt = self.prompt_ids(prompt, &before)?;
            }
            let (joint, answer) =
                (self.prompt_ids(prompt, &format!("{before}{rest}"))?, self.tokenizer.encode_part(&rest)?);
            encoded.boundary_holds &= joint.len() == encoded.prompt.len() + answer.len()
                && joint.starts_with(&encoded.prompt)
                && joint.ends_with(&answer);
            let (answer, is_cut) = self.end_at_eos(answer)?;
            self.check_ids(&answer, name)?;
            self.check_representable(&answer, name)?;
            encoded.is_cut |= is_cut;
            encoded.completions.push(answer);
            read = Some(before);
        }
        if completions.is_empty() {
            encoded.prompt = self.prompt(prompt)?;
        }
        self.check_ids(&encoded.prompt, "prompt")?;
        if encoded.prompt.is_empty() {
            return Err(Error::Unfit { problem: "`prompt` has no tokens".into() });
        }
        Ok(encoded)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::Template {
            problem: "the rows are conversations, but the model has no chat template".into(),
        })
    }
}
