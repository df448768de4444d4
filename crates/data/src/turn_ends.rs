//! The tokens that a chat template closes the assistant's turns with.

use crate::TextTokenizer;
use crate::chat::{ChatTemplate, Message};

const QUESTION: &str = "Is it so?";
const ANSWER: &str = "Indeed.";
const NEXT: &str = "And why?";

impl ChatTemplate {
    /// The added tokens that the template writes directly behind an assistant's turn: behind the last one, and, where that differs,
    /// behind one that other turns follow (gpt-oss: `<|return|>` and `<|end|>`). None where the template refuses a plain
    /// conversation.
    pub fn turn_ends(&self, tokenizer: &TextTokenizer) -> Vec<u32> {
        let first_added = |text: &str| {
            let id = *tokenizer.encode_part(text.trim_start()).ok()?.first()?;
            tokenizer.is_added(id).then_some(id)
        };
        let ends = [self.behind_last(), self.behind_followed()];
        let mut ids: Vec<u32> = ends.iter().flatten().filter_map(|text| first_added(text)).collect();
        ids.dedup();
        ids
    }

    /// The text behind the last turn.
    fn behind_last(&self) -> Option<String> {
        let answer = [Message::new("assistant", ANSWER)];
        let split = self.split(&vec![Message::new("user", QUESTION)].into(), &[&answer]).ok()?;
        Some(split.answers.first()?.rsplit_once(ANSWER)?.1.to_owned())
    }

    /// The text that closes a turn of the assistant as it closes the user's; `None` where the next turn begins without one.
    fn behind_followed(&self) -> Option<String> {
        let turns = [("user", QUESTION), ("assistant", ANSWER), ("user", NEXT)];
        let turns = turns.map(|(role, text)| Message::new(role, text));
        let text = self.render(&turns, None, false).ok()?;
        let (before, _) = text.rsplit_once(NEXT)?;
        let (before, behind_assistant) = before.rsplit_once(ANSWER)?;
        let (_, behind_user) = before.rsplit_once(QUESTION)?;
        let [opened, closed] = [true, false].map(|answer| self.render(&turns[..1], None, answer).ok());
        let opened = opened?;
        let header = opened.strip_prefix(&closed?)?;
        let same = behind_assistant.chars().zip(behind_user.chars()).take_while(|(a, b)| a == b);
        let end = &behind_assistant[..same.map(|(a, _)| a.len_utf8()).sum()];
        // what both have in common may be the beginning of the next turn alone
        (!header.is_empty() && !header.starts_with(end)).then(|| end.to_owned())
    }
}
