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
            Said::Text(text) => self.tokenizer.encode_start(text),
            Said::Turns(turns) => self.ids(&self.template()?.render(turns, true)?),
        }
    }

    /// A prompt and one completion, and whether their boundary holds.
    fn exchange(&self, prompt: &Said, completion: &Said) -> Result<(Vec<u32>, Vec<u32>, bool)> {
        let (prompt, answer, joint) = match (prompt, completion) {
            (Said::Text(prompt), Said::Text(answer)) => {
                let joint = self.tokenizer.encode_start(&format!("{prompt}{answer}"))?;
                (self.tokenizer.encode_start(prompt)?, self.ids(answer)?, joint)
            }
            (Said::Turns(prompt), answer) => {
                let answer = match answer {
                    Said::Turns(turns) => turns.clone(),
                    Said::Text(text) => vec![Message { role: "assistant".into(), content: text.clone() }],
                };
                let (before, rest) = self.template()?.split(prompt, &answer)?;
                let joint = self.ids(&format!("{before}{rest}"))?;
                (self.ids(&before)?, self.ids(&rest)?, joint)
            }
            (Said::Text(_), Said::Turns(_)) => {
                return Err(Error::Template { problem: "the prompt is text, but its completion is turns".into() });
            }
        };
        let holds =
            joint.len() == prompt.len() + answer.len() && joint.starts_with(&prompt) && joint.ends_with(&answer);
        Ok((prompt, self.closed(answer), holds))
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
        for completion in &completions {
            let (prompt, answer, holds) = self.exchange(prompt, completion)?;
            encoded.prompt = prompt;
            encoded.completions.push(answer);
            encoded.boundary_holds &= holds;
        }
        if completions.is_empty() {
            encoded.prompt = self.prompt(prompt)?;
        }
        Ok(encoded)
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(&[text])?.remove(0))
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::Template {
            problem: "the rows are conversations, but the model has no chat template".into(),
        })
    }
}
