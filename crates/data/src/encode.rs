//! A person's rows as ids: through the model's chat template where they are conversations, as they stand where they are text.

use crate::chat::{ChatTemplate, Message};
use crate::records::{Record, Said};
use crate::{Error, Result, TextTokenizer};

/// A prompt with its completions, as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub prompt: Vec<u32>,
    /// What was preferred, then what was not; one of a judged row; none of a prompt alone.
    pub completions: Vec<Vec<u32>>,
    /// Whether the ids of prompt and completion, made apart, are those of both in one piece.
    pub boundary_holds: bool,
}

/// Turns what is said into ids.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    eos: u32,
}

impl Encoder {
    /// `eos` closes every completion.
    pub fn new(tokenizer: TextTokenizer, template: Option<ChatTemplate>, eos: u32) -> Self {
        Self { tokenizer, template, eos }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// A prompt that stands alone.
    ///
    /// # Errors
    /// A conversation where the model has no template, or one that its template refuses.
    pub fn prompt(&self, prompt: &Said) -> Result<Vec<u32>> {
        match prompt {
            Said::Text(text) => self.begun(prompt, text),
            Said::Turns(turns) => self.begun(prompt, &self.template()?.render(turns, true)?),
        }
    }

    /// The texts of a prompt and one completion.
    fn texts(&self, prompt: &Said, completion: &Said) -> Result<(String, String)> {
        match (prompt, completion) {
            (Said::Text(prompt), Said::Text(answer)) => Ok((prompt.clone(), answer.clone())),
            (Said::Turns(prompt), Said::Turns(answer)) => self.template()?.split(prompt, answer),
            (Said::Turns(prompt), Said::Text(answer)) => {
                self.template()?.split(prompt, &[Message { role: "assistant".into(), content: answer.clone() }])
            }
            (Said::Text(_), Said::Turns(_)) => {
                Err(Error::Template { problem: "the prompt is text, but its completion is turns".into() })
            }
        }
    }

    /// The ids of a text that a prompt begins; a template has put there what a tokenizer puts before plain text.
    fn begun(&self, prompt: &Said, text: &str) -> Result<Vec<u32>> {
        match prompt {
            Said::Text(_) => self.tokenizer.encode_start(text),
            Said::Turns(_) => self.tokenizer.encode_part(text),
        }
    }

    /// A completion ends with its first EOS.
    fn closed(&self, mut answer: Vec<u32>) -> Vec<u32> {
        match answer.iter().position(|id| *id == self.eos) {
            Some(end) => answer.truncate(end + 1),
            None => answer.push(self.eos),
        }
        answer
    }

    /// A row as ids.
    ///
    /// # Errors
    /// As [`Self::prompt`].
    pub fn encode(&self, record: &Record) -> Result<Encoded> {
        let (prompt, completions) = match record {
            Record::Pair { prompt, chosen, rejected, .. } => (prompt, vec![chosen, rejected]),
            Record::Judged { prompt, completion, .. } => (prompt, vec![completion]),
            Record::Prompt { prompt } => (prompt, vec![]),
        };
        let mut encoded = Encoded { prompt: vec![], completions: vec![], boundary_holds: true };
        let mut read = None; // the prompt's text, which is mostly that of all completions
        for completion in &completions {
            let (before, rest) = self.texts(prompt, completion)?;
            if read.as_ref() != Some(&before) {
                encoded.prompt = self.begun(prompt, &before)?;
            }
            let (joint, answer) = (self.begun(prompt, &format!("{before}{rest}"))?, self.tokenizer.encode_part(&rest)?);
            encoded.boundary_holds &= joint.len() == encoded.prompt.len() + answer.len()
                && joint.starts_with(&encoded.prompt)
                && joint.ends_with(&answer);
            encoded.completions.push(self.closed(answer));
            read = Some(before);
        }
        if completions.is_empty() {
            encoded.prompt = self.prompt(prompt)?;
        }
        Ok(encoded)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::Template {
            problem: "the rows are conversations, but the model has no chat template".into(),
        })
    }
}
