//! What stands in the text of rows that a person may not see: characters without a picture, and control tokens spelled out.

use crate::encode::Encoder;
use crate::records::{Content, Record};
use crate::stats::FindingKind;
use crate::{Error, Result, TextTokenizer};
use regex::{Regex, RegexBuilder};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Bytes of a compiled pattern: some tokenizers have thousands of control tokens.
const MAX_PATTERN: usize = 64 << 20;

/// The texts of a prompt or a completion: its own, or those of its turns.
pub(super) fn texts(content: &Content) -> Vec<Cow<'_, str>> {
    match content {
        Content::Text(text) => vec![text.into()],
        Content::Conversation(conversation) => conversation.turns.iter().map(|turn| turn.text().into()).collect(),
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
    for (name, content) in record.parts() {
        for text in texts(content).iter().filter(|text| !is_plain(text)) {
            let mut before = None;
            let mut characters = text.chars().enumerate().peekable();
            while let Some((index, c)) = characters.next() {
                let kind = kind_of(c, before, characters.peek().map(|(_, c)| *c));
                before = Some(c);
                let Some(kind) = kind else { continue };
                if findings.iter().all(|(other, _)| *other != kind) {
                    findings.push((kind, format!("`{name}` has U+{:04X} as character {}", u32::from(c), index + 1)));
                }
            }
        }
    }
    findings
}

/// Tokens that a text may spell, with their ids.
struct SpelledTokens {
    /// Any of them, the longest first.
    pattern: Regex,
    ids: HashMap<String, u32>,
}

impl SpelledTokens {
    /// `None` where there are no tokens.
    fn new(tokenizer: &TextTokenizer, ids: &[u32]) -> Result<Option<Self>> {
        let named = ids.iter().filter_map(|id| Some((tokenizer.token(*id).filter(|token| !token.is_empty())?, *id)));
        let ids: HashMap<String, u32> = named.collect();
        if ids.is_empty() {
            return Ok(None);
        }
        let mut tokens: Vec<&String> = ids.keys().collect();
        tokens.sort_by_key(|token| (std::cmp::Reverse(token.len()), *token));
        let alternatives = tokens.into_iter().map(|token| regex::escape(token)).collect::<Vec<_>>().join("|");
        let pattern = RegexBuilder::new(&alternatives).size_limit(MAX_PATTERN).build();
        let pattern = pattern.map_err(|e| Error::Tokenizer { problem: format!("its control tokens: {e}") })?;
        Ok(Some(Self { pattern, ids }))
    }

    /// The first token that a text spells and its tokenizer reads as such, with its id and where it ends.
    fn first_in<'a>(&self, text: &'a str, tokenizer: &TextTokenizer) -> Result<Option<(&'a str, u32, usize)>> {
        let mut ids: Option<HashSet<u32>> = None;
        for spelled in self.pattern.find_iter(text) {
            let Some(&id) = self.ids.get(spelled.as_str()) else { continue };
            // a token's settings may ask for more than its text, such as a word boundary
            let ids = match &mut ids {
                Some(ids) => ids,
                none => none.insert(tokenizer.encode_part(text)?.into_iter().collect()),
            };
            if ids.contains(&id) {
                return Ok(Some((spelled.as_str(), id, spelled.end())));
            }
        }
        Ok(None)
    }
}

/// The control tokens of a tokenizer, to find those that a text spells.
pub(super) struct ControlTokens<'a> {
    tokenizer: &'a TextTokenizer,
    all: Option<SpelledTokens>,
    ends: Option<SpelledTokens>,
    /// What begins a text, such as BOS.
    start: String,
}

impl<'a> ControlTokens<'a> {
    pub(super) fn new(encoder: &'a Encoder) -> Result<Self> {
        let tokenizer = encoder.tokenizer();
        Ok(Self {
            tokenizer,
            all: SpelledTokens::new(tokenizer, &[&tokenizer.controls(), encoder.ends()].concat())?,
            ends: SpelledTokens::new(tokenizer, encoder.ends())?,
            start: encoder.start()?.into_iter().filter_map(|id| tokenizer.token(id)).collect(),
        })
    }

    fn first_in<'t>(&self, tokens: &Option<SpelledTokens>, text: &'t str) -> Result<Option<(&'t str, u32, usize)>> {
        tokens.as_ref().map_or(Ok(None), |tokens| tokens.first_in(text, self.tokenizer))
    }

    /// What control tokens the row's own text names: any in a prompt, and an end token within a completion. A prompt of
    /// text may begin with BOS.
    pub(super) fn findings(&self, record: &Record) -> Result<Vec<(FindingKind, String)>> {
        let mut findings = vec![];
        for (name, content) in record.parts() {
            for text in texts(content) {
                if name == "prompt" {
                    let rest = text.strip_prefix(&self.start).filter(|_| matches!(content, Content::Text(_)));
                    if let Some((token, id, _)) = self.first_in(&self.all, rest.unwrap_or(&text))? {
                        let what = format!("the text of `prompt` names the control token `{token}` (id {id})");
                        findings.push((FindingKind::ControlInPrompt, what));
                        break;
                    }
                } else if let Some((token, id, end)) = self.first_in(&self.ends, &text)?
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
