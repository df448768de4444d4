//! Completions of several turns: which of their tokens the assistant says.
//!
//! The assistant's own text in the rendered conversation is what the template's `{% generation %}` blocks wrote. Without blocks,
//! it begins where the conversation before the turn ends, rendered with the start of the assistant's next turn
//! (`add_generation_prompt`); where the template writes another start for turns of the past, as those of reasoning models do, it
//! begins where that start and the conversation still agree. It ends with the first end token, as what the model writes does.
//! A token that holds the end of the context and the beginning of the assistant's text belongs to the context.

use crate::chat::{ChatTemplate, Conversation, Message, joined};
use crate::json::Json;
use crate::{Error, Result, TextTokenizer};
use duel_spec::{LossMask, LossTurns};

/// Work of finding a completion's turns, in bytes to render: for each turn of the assistant the conversation, and
/// [`TURN`] for each of its turns.
const MAX_RENDERED: usize = 1 << 26;
/// What a turn costs beyond its text, in bytes.
const TURN: usize = 1 << 10;

/// A range of a rendered conversation, in bytes, that the assistant says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AssistantText {
    start: usize,
    /// Up to where it may go on.
    limit: usize,
    /// Whether it ends at the limit where no end token comes before; otherwise it must have one.
    ends_at_limit: bool,
}

/// The assistant's texts in a completion of several turns, of those that carry the loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssistantTexts {
    texts: Vec<AssistantText>,
    /// The contents of those turns that others follow.
    followed: Vec<String>,
}

/// A completion whose loss is on a part of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MaskedCompletion {
    pub(crate) ids: Vec<u32>,
    pub(crate) mask: Option<LossMask>,
    /// Whether its last turn continues after its first end token, where it is cut.
    pub(crate) is_cut: bool,
}

fn is_assistant(turn: &Message) -> bool {
    turn.role() == "assistant"
}

fn unfit<T>(name: &str, what: impl std::fmt::Display) -> Result<T> {
    Err(Error::Unfit { problem: format!("`{name}` {what}") })
}

/// The turns of a completion up to the assistant's last: nobody learns what follows it. One turn is taken as it is.
pub(crate) fn up_to_assistant<'a>(turns: &'a [Message], name: &str) -> Result<&'a [Message]> {
    match turns.iter().rposition(is_assistant) {
        Some(last) => Ok(&turns[..=last]),
        None if turns.len() < 2 => Ok(turns),
        None => unfit(name, "has no turn whose `role` is \"assistant\""),
    }
}

impl AssistantTexts {
    /// Finds them in `whole`, the rendering of a prompt and the completion after it; `before` is where the prompt ends there.
    ///
    /// # Errors
    /// What the template rejects; a template that changes the text before a turn when others follow, so that what the assistant
    /// says cannot be told.
    pub(crate) fn find(
        template: &ChatTemplate,
        prompt: &Conversation,
        answer: &[Message],
        text: &str,
        before: usize,
        turns: LossTurns,
        name: &str,
    ) -> Result<Self> {
        let all = joined(prompt, answer);
        let (first, last) = (all.len() - answer.len(), all.len() - 1);
        let learned = if turns == LossTurns::All { first } else { last };
        let assistants: Vec<usize> = (learned..all.len()).filter(|&turn| is_assistant(&all[turn])).collect();
        let work = assistants.len().saturating_mul(text.len() + TURN * all.len());
        if work > MAX_RENDERED {
            let size = format!("{} turns and {} bytes", answer.len(), text.len());
            return unfit(name, format!("has {size}, too many to tell the turns apart"));
        }
        let followed = assistants.iter().filter(|&&turn| turn < last).map(|&turn| all[turn].text()).collect();
        let tools = prompt.tools.as_ref();
        let texts = match template.generated(&all, tools)? {
            Some(blocks) => {
                let earlier = match learned {
                    0 => 0,
                    turns => template.generated(&all[..turns], tools)?.map_or(0, |blocks| blocks.len()),
                };
                let blocks = blocks.into_iter().skip(earlier).filter(|block| block.end > before);
                blocks
                    .map(|block| AssistantText { start: block.start, limit: block.end, ends_at_limit: true })
                    .collect()
            }
            None => RenderedConversation { template, tools, all: &all, first, whole: text }.texts(&assistants, name)?,
        };
        Ok(Self { texts, followed })
    }

    /// Cuts a completion after the end of its last turn, or adds an end token; and marks the assistant's tokens. `ids` and
    /// `offsets` are those of the rendered conversation, of which the first `prompt` are the prompt's; `ends` are all ids that end
    /// a turn, the tokenizer's own first.
    ///
    /// # Errors
    /// An end token in the text of a turn that others follow; a turn without one, whose text those after it change; no token of
    /// the assistant.
    pub(crate) fn mask(
        &self,
        mut ids: Vec<u32>,
        offsets: &[[usize; 2]],
        prompt: usize,
        tokenizer: &TextTokenizer,
        ends: &[u32],
        name: &str,
    ) -> Result<MaskedCompletion> {
        for content in &self.followed {
            if tokenizer.encode_part(content)?.iter().any(|id| ends.contains(id)) {
                return unfit(name, "has an end token in the text of a turn that others follow");
            }
        }
        let begins = token_starts(offsets);
        let (mut spans, mut end, mut is_closed) = (vec![], prompt, false);
        for AssistantText { start, limit, ends_at_limit } in &self.texts {
            let start = begins.partition_point(|begin| begin < start).max(end);
            let is_inside = |token: usize| begins[token] < *limit && offsets[token][1] <= *limit;
            end = start;
            while end < ids.len() && is_inside(end) && !ends.contains(&ids[end]) {
                end += 1;
            }
            // a template may close a turn behind its text
            is_closed = end < ids.len() && ends.contains(&ids[end]) && (*ends_at_limit || is_inside(end));
            if !is_closed && !ends_at_limit {
                return unfit(
                    name,
                    "has a turn of the assistant that no end token closes, and that other turns change",
                );
            }
            end += usize::from(is_closed);
            spans.push([start - prompt, end - prompt]);
        }
        if spans.iter().all(|[start, end]| start == end) {
            return unfit(name, "has no token that is the assistant's");
        }
        let rest = ids.split_off(if is_closed { end } else { ids.len() });
        let is_cut = !tokenizer.decode(&rest)?.trim().is_empty();
        let mut ids = ids.split_off(prompt);
        if !is_closed {
            match spans.last_mut() {
                Some([_, end]) if *end == ids.len() => *end += 1,
                _ => spans.push([ids.len(), ids.len() + 1]),
            }
            ids.push(ends[0]);
        }
        let mask = LossMask::new(spans, ids.len());
        Ok(MaskedCompletion { ids, mask, is_cut })
    }
}

/// A conversation whose assistant's turns are looked for.
struct RenderedConversation<'a> {
    template: &'a ChatTemplate,
    tools: Option<&'a Json>,
    all: &'a [Message],
    /// The completion's first turn.
    first: usize,
    whole: &'a str,
}

impl RenderedConversation<'_> {
    fn render(&self, turns: usize, answer: bool) -> Result<String> {
        self.template.render(&self.all[..turns], self.tools, answer)
    }

    /// The texts of some turns of the assistant.
    fn texts(&self, turns: &[usize], name: &str) -> Result<Vec<AssistantText>> {
        let starts = turns.iter().map(|&turn| self.start(turn, name)).collect::<Result<Vec<_>>>()?;
        let mut texts = vec![];
        for (index, &turn) in turns.iter().enumerate() {
            let next = starts.get(index + 1).copied().unwrap_or(self.whole.len());
            let (limit, ends_at_limit) = if turn + 1 == self.all.len() {
                (next, true)
            } else {
                let closed = self.render(turn + 1, false)?;
                if self.whole.starts_with(&closed) { (closed.len(), true) } else { (next, false) }
            };
            texts.push(AssistantText { start: starts[index], limit, ends_at_limit });
        }
        Ok(texts)
    }

    /// Where the text of an assistant's turn starts.
    fn start(&self, turn: usize, name: &str) -> Result<usize> {
        let opened = self.render(turn, true)?;
        if self.whole.starts_with(&opened) {
            return Ok(opened.len());
        }
        let closed = self.render(turn, false)?;
        if let (Some(header), Some(rest)) = (opened.strip_prefix(&closed), self.whole.strip_prefix(&closed)) {
            let same: usize =
                header.chars().zip(rest.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            if same > 0 {
                return Ok(closed.len() + same);
            }
        }
        let number = turn + 1 - self.first;
        unfit(
            name,
            format!("has a turn {number} whose beginning cannot be told: the chat template changes the text before it"),
        )
    }
}

/// Where the text of each token begins, in bytes: the space before a word belongs to its token, though some tokenizers leave it
/// out of the offsets.
fn token_starts(offsets: &[[usize; 2]]) -> Vec<usize> {
    let mut end = 0;
    let start = |[start, own_end]: &[usize; 2]| {
        let begin = (*start).min(end);
        end = end.max(*own_end);
        begin
    };
    offsets.iter().map(start).collect()
}
