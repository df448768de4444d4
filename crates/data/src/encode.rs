//! The user's rows as ids: conversations through the model's chat template, plain text as it is.

use crate::chat::{ChatTemplate, Message, SplitConversation};
use crate::records::{Content, Record};
use crate::{Error, Result, TextTokenizer};

/// A prompt with its completions, as ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedRow {
    pub prompt: Vec<u32>,
    /// Chosen, then rejected; one for a labelled completion; none for a prompt alone.
    pub completions: Vec<Vec<u32>>,
    /// Whether a token of prompt and completion together holds the end of one and the beginning of the other: the prompt then
    /// ends before it.
    pub is_merged: bool,
    /// Whether a completion changes the text of the prompt before it, which then ends where all completions still agree.
    pub is_shortened: bool,
    /// Whether a completion continues after its first EOS, where it is cut.
    pub is_cut: bool,
}

/// Encodes prompts and completions.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    /// Closes a completion that has no end of its own.
    eos: u32,
    /// All ids that end a completion, EOS first.
    ends: Vec<u32>,
    /// Ids not allowed in a completion, sorted: control tokens that do not end it, and PAD.
    forbidden: Vec<u32>,
    /// Rows of the model's embedding.
    vocabulary: usize,
}

impl Encoder {
    /// `eos` ends every completion, which may contain no other control token.
    pub fn new(tokenizer: TextTokenizer, template: Option<ChatTemplate>, eos: u32) -> Self {
        let forbidden = tokenizer.controls().into_iter().filter(|id| *id != eos).collect();
        Self { tokenizer, template, eos, ends: vec![eos], forbidden, vocabulary: usize::MAX }
    }

    /// Other ids that end a completion just as EOS does.
    #[must_use]
    pub fn with_other_eos(mut self, ids: &[u32]) -> Self {
        self.ends.extend(ids);
        self.forbidden.retain(|id| !ids.contains(id));
        self
    }

    /// For a model with `vocabulary` rows in its embedding, which pads with `pad`.
    #[must_use]
    pub fn for_model(mut self, vocabulary: usize, pad: u32) -> Self {
        self.vocabulary = vocabulary;
        if !self.ends.contains(&pad) && !self.forbidden.contains(&pad) {
            self.forbidden.push(pad);
            self.forbidden.sort_unstable();
        }
        self
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// All ids that end a completion, EOS first.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The ids of a prompt without a completion.
    ///
    /// # Errors
    /// A conversation where the model has no template, or that its template rejects.
    pub fn prompt(&self, prompt: &Content) -> Result<Vec<u32>> {
        let ids = match prompt {
            Content::Text(text) => self.tokenizer.encode_start(text)?,
            Content::Conversation(conversation) => {
                self.tokenizer.encode_start(&self.template()?.prompt(conversation)?)?
            }
        };
        self.check_ids(&ids, "prompt")?;
        Ok(ids)
    }

    /// The text of a prompt, and what each completion adds to it.
    fn texts(&self, prompt: &Content, completions: &[(&Content, &str)]) -> Result<SplitConversation> {
        match prompt {
            Content::Text(text) => {
                let answer = |(completion, _): &(&Content, &str)| match completion {
                    Content::Text(answer) => Ok(answer.clone()),
                    Content::Conversation(_) => Err(Error::Template {
                        problem: "the prompt is text, but its completion is a list of turns".into(),
                    }),
                };
                let answers = completions.iter().map(answer).collect::<Result<_>>()?;
                Ok(SplitConversation { prompt: text.clone(), answers, is_shortened: false })
            }
            Content::Conversation(conversation) => {
                let answers = completions.iter().map(|(completion, _)| match completion {
                    Content::Text(answer) => vec![Message::new("assistant", answer)],
                    Content::Conversation(answer) => answer.turns.clone(),
                });
                let answers: Vec<Vec<Message>> = answers.collect();
                self.template()?.split(conversation, &answers.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
        }
    }

    /// Cuts a completion after its first EOS, or adds one; also returns whether any text is lost.
    fn end_at_eos(&self, mut answer: Vec<u32>) -> Result<(Vec<u32>, bool)> {
        let ends = |id: &u32| self.ends.contains(id);
        match answer.iter().position(ends) {
            Some(end) => {
                let rest = answer.split_off(end + 1);
                let is_cut = !self.tokenizer.decode(&rest)?.trim().is_empty();
                Ok((answer, is_cut))
            }
            None => {
                answer.push(self.eos);
                Ok((answer, false))
            }
        }
    }

    /// A token for error messages.
    fn display_token(&self, id: u32) -> String {
        self.tokenizer.token(id).map_or_else(|| format!("id {id}"), |token| format!("`{token}` (id {id})"))
    }

    /// Checks that the model has every id.
    fn check_ids(&self, ids: &[u32], name: &str) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(&id) => Err(Error::Unfit {
                problem: format!(
                    "`{name}` has the token {}, but the model only has ids below {}",
                    self.display_token(id),
                    self.vocabulary
                ),
            }),
            None => Ok(()),
        }
    }

    /// Checks that the model could generate a response: its only control token is EOS, at its end.
    fn check_representable(&self, answer: &[u32], name: &str) -> Result<()> {
        match answer.iter().find(|id| self.forbidden.binary_search(id).is_ok()) {
            Some(&id) => Err(Error::Unfit {
                problem: format!(
                    "`{name}` has the control token {}, but a response may only have {}, at its end",
                    self.display_token(id),
                    self.display_token(self.eos)
                ),
            }),
            None => Ok(()),
        }
    }

    /// A row as ids. Prompt and completion are encoded together and cut after the prompt's own ids. Where these are not how the
    /// whole begins, since a token holds the seam, the prompt ends before that token, as in TRL's `build_tokenized_answer`; a pair
    /// has one prompt, so that it ends before the token that holds the seam of either.
    ///
    /// # Errors
    /// As [`Self::prompt`]; a prompt without tokens, ids that the model does not have, completions that it could not generate.
    pub fn encode(&self, record: &Record) -> Result<EncodedRow> {
        let (prompt, completions) = match record {
            Record::Pair { prompt, chosen, rejected, .. } => (prompt, vec![(chosen, "chosen"), (rejected, "rejected")]),
            Record::Judged { prompt, completion, .. } => (prompt, vec![(completion, "completion")]),
            Record::Prompt { prompt } => (prompt, vec![]),
        };
        if completions.is_empty() {
            return self.with_prompt(EncodedRow { prompt: self.prompt(prompt)?, ..EncodedRow::default() });
        }
        let SplitConversation { prompt: before, answers, is_shortened } = self.texts(prompt, &completions)?;
        let mut encoded = EncodedRow { is_shortened, ..EncodedRow::default() };
        encoded.prompt = self.tokenizer.encode_start(&before)?;
        let mut wholes = vec![];
        for rest in &answers {
            let whole = self.tokenizer.encode_start(&format!("{before}{rest}"))?;
            let common = common_prefix(&encoded.prompt, &whole);
            encoded.is_merged |= common < encoded.prompt.len();
            encoded.prompt.truncate(common);
            wholes.push(whole);
        }
        for (whole, (_, name)) in wholes.into_iter().zip(&completions) {
            let (answer, is_cut) = self.end_at_eos(whole[encoded.prompt.len()..].to_vec())?;
            self.check_ids(&answer, name)?;
            self.check_representable(&answer, name)?;
            encoded.is_cut |= is_cut;
            encoded.completions.push(answer);
        }
        self.with_prompt(encoded)
    }

    /// A row whose prompt the model can read.
    fn with_prompt(&self, encoded: EncodedRow) -> Result<EncodedRow> {
        self.check_ids(&encoded.prompt, "prompt")?;
        if encoded.prompt.is_empty() {
            let problem = if encoded.is_merged {
                "`prompt` has no tokens of its own: its first one holds the beginning of a completion"
            } else {
                "`prompt` has no tokens"
            };
            return Err(Error::Unfit { problem: problem.into() });
        }
        Ok(encoded)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| Error::Template {
            problem: "the rows are conversations, but the model has no chat template".into(),
        })
    }
}

/// How many ids two sequences have in common from their start.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
