//! Where a text may be cut so that its pieces are encoded one by one with the same ids as in one go.
//!
//! A cut lies before the first space after a character that is not one. It is safe where the tokenizer's own splitting puts a
//! boundary there, whatever stands on either side, and no added token touches it:
//!
//! - normalizers that change each side by itself (`Prepend` changes only the beginning of the text);
//! - a pre-tokenizer that splits there: the regular expressions of the GPT family, in whose alternatives a space is the first
//!   character or follows other spaces, or `Metaspace`;
//! - or no split, but BPE without a token that holds a space after another character: merges never cross the cut.
//!
//! For any other tokenizer there are no cuts.

use aho_corasick::AhoCorasick;
use serde_json::Value;
use std::collections::HashSet;
use tokenizers::models::ModelWrapper;
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

/// SentencePiece's space.
const META: char = '▁';

/// Alternatives of regular expressions that match no space after another character, and look at most one character ahead, after
/// spaces.
const ALTERNATIVES: [&str; 32] = [
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    r"'(?:[sdmt]|ll|ve|re)",
    r" ?\p{L}+",
    r" ?\p{N}+",
    r" ?[^\s\p{L}\p{N}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+",
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"\p{N}",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r"\s*[\r\n]",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
];
/// The alternative that makes every space part of a match.
const SPACES: &str = r"\s+";

/// Regular expressions that match no space and look at nothing else.
const WITHOUT_SPACES: [&str; 4] = [r"\p{N}", r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", r"[\r\n]"];

/// Replacements that change no text across a cut: spaces, and those in a row or at the ends of a text.
const REPLACEMENTS: [&str; 3] = [" {2,}", r"[ ▁]+\z", r"\A |[ ▁]+\z"];

/// The cuts of a tokenizer.
#[derive(Debug)]
pub(crate) struct WordBoundaries {
    added: AhoCorasick,
    /// A letter that begins no added token: before a piece, it stands for the text that precedes it.
    before: char,
}

impl WordBoundaries {
    /// `None` for a tokenizer whose texts cannot be cut.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let normalizer = serde_json::to_value(tokenizer.get_normalizer()).ok()?;
        let pre_tokenizer = serde_json::to_value(tokenizer.get_pre_tokenizer()).ok()?;
        keeps_words_apart(&normalizer).then_some(())?;
        let spaces = spaces_after_normalizer(tokenizer)?;
        let is_cuttable = match SplitKind::of(&pre_tokenizer, &spaces) {
            SplitKind::AtSpaces => true,
            SplitKind::WithinWords => !spaces.contains(&' ') && merges_stop_at_spaces(tokenizer),
            // spaces become SentencePiece's, but begin no word
            SplitKind::Other => is_unsplit_metaspace(&pre_tokenizer) && merges_stop_at_spaces(tokenizer),
        };
        is_cuttable.then_some(())?;
        let added = tokenizer.get_added_tokens_decoder();
        // such tokens are found in the normalized text
        if !normalizer.is_null() && added.values().any(|token| token.normalized) {
            return None;
        }
        let firsts: HashSet<char> = added.values().filter_map(|token| token.content.chars().next()).collect();
        Some(Self {
            added: AhoCorasick::new(added.values().map(|token| &token.content)).ok()?,
            before: ('a'..='z').find(|letter| !firsts.contains(letter))?,
        })
    }

    /// The letter to put before a piece other than the first.
    pub(crate) fn before(&self) -> char {
        self.before
    }

    /// The pieces of a text, in order; of an empty text, itself.
    pub(crate) fn pieces<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let mut touched = self.touched(text).into_iter().peekable();
        let mut is_free = move |index: usize| {
            while touched.next_if(|[_, end]| *end < index).is_some() {}
            touched.peek().is_none_or(|[start, _]| index < *start)
        };
        let cuts = (1..text.len()).filter(move |index| self.is_word_end(text, *index) && is_free(*index));
        let mut start = 0;
        cuts.chain([text.len()]).map(move |end| &text[std::mem::replace(&mut start, end)..end])
    }

    /// A text in sections of some bytes, or a little more, each of whole pieces; one where it is shorter.
    pub(crate) fn sections<'a>(&self, text: &'a str, bytes: usize) -> Vec<&'a str> {
        let (mut sections, mut rest, mut length) = (vec![], text, 0);
        if text.len() > bytes {
            for piece in self.pieces(text) {
                if length >= bytes {
                    let (section, after) = rest.split_at(std::mem::take(&mut length));
                    sections.push(section);
                    rest = after;
                }
                length += piece.len();
            }
        }
        sections.push(rest);
        sections
    }

    /// Whether a space is at an index, and before it the end of a word.
    fn is_word_end(&self, text: &str, index: usize) -> bool {
        let bytes = text.as_bytes();
        bytes[index] == b' '
            && match bytes[index - 1] {
                byte if byte.is_ascii() => byte.is_ascii_graphic(),
                _ => !text[..index].ends_with(|c: char| c.is_whitespace() || c == META),
            }
    }

    /// First and last index that an added token touches, in order, without overlaps.
    fn touched(&self, text: &str) -> Vec<[usize; 2]> {
        let mut ranges: Vec<[usize; 2]> = vec![];
        for token in self.added.find_overlapping_iter(text) {
            let [mut start, end] = [token.start(), token.end()];
            while let Some(last) = ranges.pop_if(|last| start <= last[1]) {
                start = start.min(last[0]);
            }
            ranges.push([start, end]);
        }
        ranges
    }
}

/// Whether a normalizer, or none, changes the text on each side of a cut by itself. Unicode's forms compose no space with what
/// precedes it, and make none at the end of another character.
fn keeps_words_apart(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        None => normalizer.is_null(),
        Some("NFC" | "NFD" | "NFKC" | "NFKD" | "Prepend") => true,
        Some("Replace") => {
            let pattern = &normalizer["pattern"];
            pattern["String"] == " " || REPLACEMENTS.iter().any(|known| pattern["Regex"] == *known)
        }
        Some("Sequence") => normalizer["normalizers"].as_array().is_some_and(|all| all.iter().all(keeps_words_apart)),
        Some(_) => false,
    }
}

/// What a space after another character becomes, alone and before a second one. `None`: the normalizer changes ASCII otherwise.
fn spaces_after_normalizer(tokenizer: &Tokenizer) -> Option<HashSet<char>> {
    let normalized = |text: String| {
        let mut text = NormalizedString::from(text);
        let Some(normalizer) = tokenizer.get_normalizer() else { return Some(text.get().to_owned()) };
        let done = duel_tables::catch_panic(|| normalizer.normalize(&mut text));
        done?.ok()?;
        Some(text.get().to_owned())
    };
    let mut spaces = HashSet::new();
    for graphic in '!'..='~' {
        for between in [" ", "  "] {
            let text = normalized(format!("x{graphic}{between}x"))?;
            let (_, rest) = text.split_once(&format!("x{graphic}"))?;
            let space = rest.strip_suffix('x')?.chars().next()?;
            [' ', META].contains(&space).then(|| spaces.insert(space))?;
        }
    }
    Some(spaces)
}

/// What a pre-tokenizer does where a word ends and a space follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SplitKind {
    /// Puts a boundary there.
    AtSpaces,
    /// Puts none there, and others that depend on nothing beyond a space.
    WithinWords,
    Other,
}

impl SplitKind {
    /// `spaces`: what spaces are, once normalized.
    fn of(pre_tokenizer: &Value, spaces: &HashSet<char>) -> Self {
        let at_spaces = |is_split: bool| if is_split { Self::AtSpaces } else { Self::Other };
        let is_plain = !spaces.contains(&META);
        match pre_tokenizer["type"].as_str() {
            None if pre_tokenizer.is_null() => Self::WithinWords,
            Some("Digits") => Self::WithinWords,
            Some("ByteLevel") => at_spaces(is_plain && pre_tokenizer["use_regex"] == true),
            Some("Metaspace") => at_spaces(pre_tokenizer["split"] == true && pre_tokenizer["replacement"] == "▁"),
            Some("Split") => {
                let is_isolated = pre_tokenizer["behavior"] == "Isolated" && pre_tokenizer["invert"] == false;
                let is_inverse = pre_tokenizer["behavior"] == "Removed" && pre_tokenizer["invert"] == true;
                let pattern = &pre_tokenizer["pattern"];
                match (pattern["Regex"].as_str(), pattern["String"].as_str()) {
                    // which no longer occurs
                    (_, Some(" ")) if !spaces.contains(&' ') => Self::WithinWords,
                    (Some(regex), _) if is_isolated && WITHOUT_SPACES.contains(&regex) => Self::WithinWords,
                    (Some(regex), _) => at_spaces((is_isolated || is_inverse) && is_plain && matches_words(regex)),
                    _ => Self::Other,
                }
            }
            Some("Sequence") => {
                let parts = pre_tokenizer["pretokenizers"].as_array().into_iter().flatten();
                let mut kinds = parts.map(|part| Self::of(part, spaces));
                kinds.find(|kind| *kind != Self::WithinWords).unwrap_or(Self::WithinWords)
            }
            _ => Self::Other,
        }
    }
}

/// Whether all alternatives of a regular expression are known, and every space is part of a match.
fn matches_words(regex: &str) -> bool {
    let alternatives = alternatives(regex);
    alternatives.contains(&SPACES) && alternatives.iter().all(|one| *one == SPACES || ALTERNATIVES.contains(one))
}

/// The alternatives of a regular expression, those in parentheses and `|` in brackets aside.
fn alternatives(regex: &str) -> Vec<&str> {
    let (mut depth, mut in_class, mut is_escaped, mut start) = (0usize, false, false, 0);
    let mut all = vec![];
    for (index, c) in regex.char_indices() {
        match c {
            _ if is_escaped => {}
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            '|' if !in_class && depth == 0 => {
                all.push(&regex[start..index]);
                start = index + 1;
            }
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    all.push(&regex[start..]);
    all
}

/// Whether a pre-tokenizer only makes SentencePiece's spaces.
fn is_unsplit_metaspace(pre_tokenizer: &Value) -> bool {
    pre_tokenizer["type"] == "Metaspace" && pre_tokenizer["split"] == false && pre_tokenizer["replacement"] == "▁"
}

/// Whether BPE merges nothing across SentencePiece's space, which is a token of its own: no token has it after another character.
fn merges_stop_at_spaces(tokenizer: &Tokenizer) -> bool {
    let ModelWrapper::BPE(bpe) = tokenizer.get_model() else { return false };
    let is_empty = |affix: &Option<String>| affix.as_deref().is_none_or(str::is_empty);
    let vocabulary = bpe.get_vocab();
    let crosses = |token: &String| token.trim_start_matches(META).contains(META);
    !bpe.ignore_merges
        && is_empty(&bpe.continuing_subword_prefix)
        && is_empty(&bpe.end_of_word_suffix)
        && vocabulary.contains_key(&META.to_string())
        && !vocabulary.keys().any(crosses)
}

#[cfg(test)]
mod tests;
