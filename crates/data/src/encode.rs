//! The user's rows as ids: conversations through the model's chat template, plain text as it is.

use crate::chat::{ChatTemplate, Conversation, Message, SplitConversation};
use crate::completion_turns::{AssistantTexts, MaskedCompletion, up_to_assistant};
use crate::records::{Content, Record};
use crate::{Error, Result, TextTokenizer};
use duel_spec::{LossMask, LossTurns};

/// A prompt with its completions, as ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedRow {
    pub prompt: Vec<u32>,
    /// Chosen, then rejected; one for a labelled completion; none for a prompt alone.
    pub completions: Vec<Vec<u32>>,
    /// For each completion the tokens that carry the loss; `None`: all of them.
    pub masks: Vec<Option<LossMask>>,
    /// Whether a token of prompt and completion together holds the end of one and the beginning of the other: the prompt then
    /// ends before it.
    pub is_merged: bool,
    /// Whether a completion changes the text of the prompt before it, which then ends where all completions still agree.
    pub is_shortened: bool,
    /// Whether a completion continues after the EOS that ends its last turn, where it is cut, or with turns that no answer of the
    /// assistant follows.
    pub is_cut: bool,
}

impl EncodedRow {
    /// Cuts completions after `tokens`, and their masks. Returns whether each still has a token that carries the loss.
    pub fn truncate_completions(&mut self, tokens: usize) -> bool {
        self.completions.iter_mut().for_each(|ids| ids.truncate(tokens));
        self.masks.iter_mut().flatten().for_each(|mask| *mask = mask.truncated(tokens));
        self.masks.iter().flatten().all(|mask| mask.count() > 0)
    }
}

/// What a row renders to.
struct RenderedRow {
    split: SplitConversation,
    /// Of each completion of several turns, what the assistant says.
    assistant: Vec<Option<AssistantTexts>>,
    /// Whether turns behind the assistant's last are left out.
    is_cut: bool,
}

/// Encodes prompts and completions.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    /// Begins a text, where the tokenizer itself puts nothing before it.
    bos: Option<u32>,
    /// Closes a completion that has no end of its own.
    eos: u32,
    /// All ids that end a completion, EOS first.
    ends: Vec<u32>,
    /// Ids not allowed in what the assistant says, sorted: control tokens that do not end it, and PAD.
    forbidden: Vec<u32>,
    /// Which turns of the assistant carry the loss, in a completion of several.
    turns: LossTurns,
    /// Rows of the model's embedding.
    vocabulary: usize,
}

impl Encoder {
    /// `eos` ends every completion, which may contain no other control token.
    pub fn new(tokenizer: TextTokenizer, template: Option<ChatTemplate>, eos: u32) -> Self {
        let forbidden = tokenizer.controls().into_iter().filter(|id| *id != eos).collect();
        Self {
            tokenizer,
            template,
            bos: None,
            eos,
            ends: vec![eos],
            forbidden,
            turns: LossTurns::default(),
            vocabulary: usize::MAX,
        }
    }

    /// Other ids that end a completion just as EOS does.
    #[must_use]
    pub fn with_other_eos(mut self, ids: &[u32]) -> Self {
        self.ends.extend(ids);
        self.forbidden.retain(|id| !ids.contains(id));
        self
    }

    /// The token that begins a text where a template or the rows write it.
    #[must_use]
    pub fn with_bos(mut self, bos: Option<u32>) -> Self {
        self.bos = bos;
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

    /// With the loss on these turns of a completion of several.
    #[must_use]
    pub fn with_loss_on(mut self, turns: LossTurns) -> Self {
        self.turns = turns;
        self
    }

    /// Whether the `tools` of a conversation become text: the template mentions them.
    pub fn reads_tools(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.reads_tools)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// All ids that end a completion, EOS first.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// What the tokenizer puts before a text; where that is nothing, BOS.
    pub(crate) fn start(&self) -> Result<Vec<u32>> {
        let start = self.tokenizer.encode_start("")?;
        Ok(if start.is_empty() { self.bos.into_iter().collect() } else { start })
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
    fn texts(&self, prompt: &Content, completions: &[(&str, &Content)]) -> Result<RenderedRow> {
        match prompt {
            Content::Text(text) => {
                let answer = |(_, completion): &(&str, &Content)| match completion {
                    Content::Text(answer) => Ok(answer.clone()),
                    Content::Conversation(_) => Err(Error::Unfit {
                        problem: "the prompt is text, but its completion is a list of turns".into(),
                    }),
                };
                let answers = completions.iter().map(answer).collect::<Result<_>>()?;
                let split = SplitConversation { prompt: text.clone(), answers, is_shortened: false };
                Ok(RenderedRow { split, assistant: vec![None; completions.len()], is_cut: false })
            }
            Content::Conversation(conversation) => {
                let answers = completions.iter().map(|(_, completion)| match completion {
                    Content::Text(answer) => vec![Message::new("assistant", answer)],
                    Content::Conversation(answer) => answer.turns.clone(),
                });
                let answers: Vec<Vec<Message>> = answers.collect();
                self.conversation_texts(conversation, completions, &answers)
            }
        }
    }

    fn conversation_texts(
        &self,
        prompt: &Conversation,
        completions: &[(&str, &Content)],
        answers: &[Vec<Message>],
    ) -> Result<RenderedRow> {
        let names = completions.iter().map(|(name, _)| *name);
        let learned = answers.iter().zip(names.clone()).map(|(answer, name)| up_to_assistant(answer, name));
        let learned = learned.collect::<Result<Vec<_>>>()?;
        let is_cut = learned.iter().zip(answers).any(|(learned, answer)| learned.len() < answer.len());
        let template = self.template()?;
        let split = template.split(prompt, &learned)?;
        let find = |((answer, rest), name): ((&&[Message], &String), &str)| {
            let (text, before) = (format!("{}{rest}", split.prompt), split.prompt.len());
            let is_several = answer.len() > 1;
            let find = || AssistantTexts::find(template, prompt, answer, &text, before, self.turns, name);
            is_several.then(find).transpose()
        };
        let assistant = learned.iter().zip(&split.answers).zip(names).map(find).collect::<Result<_>>()?;
        Ok(RenderedRow { split, assistant, is_cut })
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

    /// Checks that the model could generate what carries the loss: its only control token is EOS, at its end.
    fn check_representable(&self, answer: &[u32], mask: Option<&LossMask>, name: &str) -> Result<()> {
        let is_counted = |index: usize| mask.is_none_or(|mask| mask.contains(index));
        let is_forbidden = |(index, id): &(usize, &u32)| self.forbidden.binary_search(id).is_ok() && is_counted(*index);
        match answer.iter().enumerate().find(is_forbidden).map(|(_, id)| id) {
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
        let (prompt, completions) = (record.prompt(), record.completions());
        if completions.is_empty() {
            return self.with_prompt(EncodedRow { prompt: self.prompt(prompt)?, ..EncodedRow::default() });
        }
        let RenderedRow { split, assistant, is_cut } = self.texts(prompt, &completions)?;
        let SplitConversation { prompt: before, answers, is_shortened } = split;
        let mut encoded = EncodedRow { is_shortened, is_cut, ..EncodedRow::default() };
        encoded.prompt = self.tokenizer.encode_start(&before)?;
        let mut wholes = vec![];
        for (rest, assistant) in answers.iter().zip(&assistant) {
            let text = format!("{before}{rest}");
            let (full_ids, offsets) = match assistant {
                Some(_) => self.tokenizer.encode_start_with_offsets(&text)?,
                None => (self.tokenizer.encode_start(&text)?, vec![]),
            };
            let common = common_prefix(&encoded.prompt, &full_ids);
            encoded.is_merged |= common < encoded.prompt.len();
            encoded.prompt.truncate(common);
            wholes.push((full_ids, offsets));
        }
        for (((full_ids, offsets), assistant), (name, _)) in wholes.into_iter().zip(assistant).zip(&completions) {
            let prompt = encoded.prompt.len();
            let MaskedCompletion { ids, mask, is_cut } = match assistant {
                Some(assistant) => assistant.mask(full_ids, &offsets, prompt, &self.tokenizer, &self.ends, name)?,
                None => {
                    let (ids, is_cut) = self.end_at_eos(full_ids[prompt..].to_vec())?;
                    MaskedCompletion { ids, mask: None, is_cut }
                }
            };
            self.check_ids(&ids, name)?;
            self.check_representable(&ids, mask.as_ref(), name)?;
            encoded.is_cut |= is_cut;
            encoded.completions.push(ids);
            encoded.masks.push(mask);
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
        self.template.as_ref().ok_or_else(|| Error::Unfit {
            problem: "the row is read as a conversation, and the model has no chat template: name a file with one, as world.rows.chat_template; or, of text without turns, set chat = \"never\" to read it as it is".into(),
        })
    }
}

/// How many ids two sequences have in common from their start.
fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
