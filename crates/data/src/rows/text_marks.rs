//! What stands in the text of rows that a person may not see: characters without a picture, and control tokens spelled out.

use crate::Result;
use crate::encode::Encoder;
use crate::records::{Content, Record};
use crate::stats::FindingKind;

/// The parts of a row with their names.
pub(super) fn parts(record: &Record) -> Vec<(&'static str, &Content)> {
    match record {
        Record::Pair { prompt, chosen, rejected, .. } => {
            vec![("prompt", prompt), ("chosen", chosen), ("rejected", rejected)]
        }
        Record::Judged { prompt, completion, .. } => vec![("prompt", prompt), ("completion", completion)],
        Record::Prompt { prompt } => vec![("prompt", prompt)],
    }
}

/// The texts of a prompt or a completion: its own, or those of its turns.
pub(super) fn texts(content: &Content) -> Vec<String> {
    match content {
        Content::Text(text) => vec![text.clone()],
        Content::Conversation(conversation) => conversation.turns.iter().map(|turn| turn.text()).collect(),
    }
}

/// The finding that a character is, if any. U+200C and U+200D join the letters of some scripts and the parts of emoji.
fn kind_of(c: char, before: Option<char>, after: Option<char>) -> Option<FindingKind> {
    let is_joined = |c: Option<char>| c.is_some_and(|c| !c.is_ascii() && !c.is_whitespace());
    match c {
        '\t' | '\n' | '\r' => None,
        c if c.is_control() => Some(FindingKind::ControlCharacters),
        '\u{200c}' | '\u{200d}' if is_joined(before) && is_joined(after) => None,
        '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{ad}' => Some(FindingKind::ZeroWidth),
        '\u{a0}' | '\u{2007}' | '\u{202f}' => Some(FindingKind::NonBreakingSpaces),
        '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            Some(FindingKind::Bidirectional)
        }
        '\u{fffd}' => Some(FindingKind::Replacement),
        _ => None,
    }
}

/// Whether a text has only what everybody sees: ASCII without control characters.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r'))
}

/// Odd characters of a row: each kind once, with the first of them.
pub(super) fn odd_characters(record: &Record) -> Vec<(FindingKind, String)> {
    let mut findings: Vec<(FindingKind, String)> = vec![];
    for (name, content) in parts(record) {
        for text in texts(content).iter().filter(|text| !is_plain(text)) {
            let characters: Vec<char> = text.chars().collect();
            for (index, &c) in characters.iter().enumerate() {
                let before = index.checked_sub(1).map(|index| characters[index]);
                let Some(kind) = kind_of(c, before, characters.get(index + 1).copied()) else { continue };
                if findings.iter().all(|(other, _)| *other != kind) {
                    findings.push((kind, format!("`{name}` has U+{:04X} as character {}", u32::from(c), index + 1)));
                }
            }
        }
    }
    findings
}

/// The control tokens of a tokenizer, to find those that a text spells.
pub(super) struct ControlTokens<'a> {
    encoder: &'a Encoder,
    /// With their ids, the longest first.
    tokens: Vec<(String, u32)>,
    /// Whether a token begins with a byte.
    begins: [bool; 256],
    /// What the tokenizer puts before a text, such as BOS.
    start: String,
}

impl<'a> ControlTokens<'a> {
    pub(super) fn new(encoder: &'a Encoder) -> Result<Self> {
        let tokenizer = encoder.tokenizer();
        let named = |id: u32| tokenizer.token(id).filter(|token| !token.is_empty()).map(|token| (token, id));
        let mut ids = [&tokenizer.controls(), encoder.ends()].concat();
        ids.sort_unstable();
        ids.dedup();
        let mut tokens: Vec<(String, u32)> = ids.into_iter().filter_map(named).collect();
        tokens.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        let mut begins = [false; 256];
        tokens.iter().for_each(|(token, _)| begins[usize::from(token.as_bytes()[0])] = true);
        let start = tokenizer.encode_start("")?.into_iter().filter_map(|id| tokenizer.token(id)).collect();
        Ok(Self { encoder, tokens, begins, start })
    }

    /// The first control token that a text spells and its tokenizer reads as such, and where it ends.
    fn first_in(&self, text: &str, is_wanted: impl Fn(u32) -> bool) -> Result<Option<(&str, u32, usize)>> {
        let mut ids = None;
        let starts = text.bytes().enumerate().filter(|(_, byte)| self.begins[usize::from(*byte)]).map(|(at, _)| at);
        for at in starts {
            let spelled = self.tokens.iter().find(|(token, id)| is_wanted(*id) && text[at..].starts_with(token));
            let Some((token, id)) = spelled else { continue };
            // a token's settings may ask for more than its text, such as a word boundary
            let ids = match &mut ids {
                Some(ids) => ids,
                none => none.insert(self.encoder.tokenizer().encode_part(text)?),
            };
            if ids.contains(id) {
                return Ok(Some((token, *id, at + token.len())));
            }
        }
        Ok(None)
    }

    /// What control tokens the row's own text names: any in a prompt, and an end token within a completion. A text that begins a
    /// prompt may begin with what the tokenizer itself puts before it.
    pub(super) fn findings(&self, record: &Record) -> Result<Vec<(FindingKind, String)>> {
        let mut findings = vec![];
        for (name, content) in parts(record) {
            for text in texts(content) {
                if name == "prompt" {
                    let rest = text.strip_prefix(&self.start).filter(|_| matches!(content, Content::Text(_)));
                    if let Some((token, id, _)) = self.first_in(rest.unwrap_or(&text), |_| true)? {
                        let what = format!("the text of `prompt` names the control token `{token}` (id {id})");
                        findings.push((FindingKind::ControlInPrompt, what));
                        break;
                    }
                } else if let Some((token, id, end)) = self.first_in(&text, |id| self.encoder.ends().contains(&id))?
                    && !text[end..].trim().is_empty()
                {
                    let what =
                        format!("the text of `{name}` goes on after the end token `{token}` (id {id}) that it names");
                    findings.push((FindingKind::EndInText, what));
                    break;
                }
            }
        }
        findings.dedup_by_key(|(kind, _)| *kind); // a row counts once, whichever completion
        Ok(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_characters_are_named_by_their_part_and_position() {
        let text = |text: &str| Content::Text(text.into());
        let kinds = |prompt: &str| {
            let record = Record::Prompt { prompt: text(prompt) };
            odd_characters(&record).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        use FindingKind::{Bidirectional, ControlCharacters, NonBreakingSpaces, Replacement, ZeroWidth};
        for (prompt, expected) in [
            ("plain text,\ttabs\r\nand ünïcödé 漢字 🎈", vec![]),
            ("👩\u{200d}🚀 می\u{200c}خواهم", vec![]), // joins emoji and letters
            ("zero\u{200b}width", vec![ZeroWidth]),
            ("a\u{200d}b", vec![ZeroWidth]),
            ("\u{feff}mark", vec![ZeroWidth]),
            ("soft\u{ad}hyphen", vec![ZeroWidth]),
            ("10\u{a0}km\u{202f}h", vec![NonBreakingSpaces]),
            ("\u{202e}abc", vec![Bidirectional]),
            ("caf\u{fffd}", vec![Replacement]),
            ("\u{0}\u{1b}[2J\u{7f}\u{85}", vec![ControlCharacters]),
            ("\u{a0}\u{200b}\u{a0}", vec![NonBreakingSpaces, ZeroWidth]),
        ] {
            assert_eq!(kinds(prompt), expected, "{prompt:?}");
        }
        let record = Record::Judged { prompt: text("p"), completion: text("ab\u{a0}"), desirable: true };
        let expected = vec![(NonBreakingSpaces, "`completion` has U+00A0 as character 3".to_owned())];
        assert_eq!(odd_characters(&record), expected);
    }
}
