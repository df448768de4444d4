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
    /// Whether a cut may only follow a character of ASCII.
    only_after_ascii: bool,
    /// A letter that begins no added token: before a piece, it stands for the text that precedes it.
    before: char,
}

impl WordBoundaries {
    /// `None` for a tokenizer whose texts cannot be cut.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let normalizer = serde_json::to_value(tokenizer.get_normalizer()).ok()?;
        let pre_tokenizer = serde_json::to_value(tokenizer.get_pre_tokenizer()).ok()?;
        let kind = normalizer_kind(&normalizer)?;
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
            only_after_ascii: kind == NormalizerKind::ByGrapheme,
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

    /// Whether a space is at an index, and before it the end of a word.
    fn is_word_end(&self, text: &str, index: usize) -> bool {
        let bytes = text.as_bytes();
        bytes[index] == b' '
            && match bytes[index - 1] {
                byte if byte.is_ascii() => byte.is_ascii_graphic(),
                _ => !self.only_after_ascii && !text[..index].ends_with(|c: char| c.is_whitespace() || c == META),
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

/// What a normalizer, or none, does to the text around a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NormalizerKind {
    /// Changes characters and those that combine with them; a space combines with none before it.
    ByCharacter,
    /// Changes clusters of characters, of which an ASCII character before a space is one.
    ByGrapheme,
}

/// `None`: may change text across a cut.
fn normalizer_kind(normalizer: &Value) -> Option<NormalizerKind> {
    match normalizer["type"].as_str() {
        None if normalizer.is_null() => Some(NormalizerKind::ByCharacter),
        Some("NFC" | "Prepend") => Some(NormalizerKind::ByCharacter),
        Some("Replace") => {
            let pattern = &normalizer["pattern"];
            let is_local = pattern["String"] == " " || REPLACEMENTS.iter().any(|known| pattern["Regex"] == *known);
            is_local.then_some(NormalizerKind::ByCharacter)
        }
        Some("Precompiled" | "NFKC" | "NFD" | "NFKD" | "Strip") => Some(NormalizerKind::ByGrapheme),
        Some("Sequence") => {
            let kinds = normalizer["normalizers"].as_array()?.iter().map(normalizer_kind);
            let kinds = kinds.collect::<Option<Vec<_>>>()?;
            let by_grapheme = kinds.contains(&NormalizerKind::ByGrapheme);
            Some(if by_grapheme { NormalizerKind::ByGrapheme } else { NormalizerKind::ByCharacter })
        }
        _ => None,
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
mod tests {
    use crate::TextTokenizer;
    use crate::text::MAX_WORDS;
    use duel_spec::seeds::{self, Rng};
    use rand::RngExt;
    use rand::seq::IndexedRandom;
    use serde_json::{Value, json};
    use std::sync::LazyLock;
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::{BPE, BpeTrainer};
    use tokenizers::models::unigram::{Unigram, UnigramTrainer};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
    use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer};

    /// What texts are made of: words, the pieces between them, and what a tokenizer may treat otherwise.
    const PARTS: [&str; 64] = [
        " ",
        " ",
        " ",
        " ",
        " ",
        " ",
        " ",
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        " \n",
        "\t",
        "\r\n",
        "\u{a0}",
        "\u{3000}",
        "▁",
        "▁▁",
        "the",
        "The",
        "reward",
        "model",
        "of",
        "a",
        "b",
        "it",
        "'s",
        "'S",
        "'ll",
        "don't",
        "\u{2019}s",
        "12",
        "3",
        "1234567",
        ".",
        ",",
        "...",
        "?!",
        "(",
        ")",
        "\"",
        "/",
        "_",
        "<",
        "é",
        "e\u{301}",
        "\u{301}",
        "Ångström",
        "naïve",
        "слово",
        "Ж",
        "ὀδός",
        "汉字",
        "の",
        "한국",
        "👩\u{200d}👩",
        "\u{600}",
        "\u{d4e}",
        "\u{200b}",
        "ﬁ",
        "½",
        "<|im_end|>",
        "<|im_start|>",
    ];
    const MARKED: [&str; 8] = ["<s>", "<pad>", "[l]", "[r]", "word", "model ", " of", "b<"];

    fn text(rng: &mut Rng) -> String {
        let part = |rng: &mut Rng| {
            let list = if rng.random_bool(0.1) { &MARKED[..] } else { &PARTS[..] };
            *list.choose(rng).expect("some")
        };
        (0..rng.random_range(0..40)).map(|_| part(rng)).collect()
    }

    static TRAINING: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut rng = seeds::derive(1, "test", 0, "training");
        (0..2000).map(|_| text(&mut rng).replace(['<', '|', '▁'], "")).collect()
    });

    /// A tokenizer trained with a pre-tokenizer, as JSON.
    fn trained(mut tokenizer: Tokenizer, pre: impl Into<PreTokenizerWrapper>, mut trainer: TrainerWrapper) -> Value {
        tokenizer.with_pre_tokenizer(Some(pre));
        tokenizer.train(&mut trainer, TRAINING.iter().map(String::as_str)).expect("trains");
        serde_json::to_value(&tokenizer).expect("JSON")
    }

    static BYTE_LEVEL: LazyLock<Value> = LazyLock::new(|| {
        let trainer =
            BpeTrainer::builder().vocab_size(500).initial_alphabet(ByteLevel::alphabet().into_iter().collect());
        trained(
            Tokenizer::new(BPE::default()),
            ByteLevel::new(false, true, true),
            trainer.show_progress(false).build().into(),
        )
    });

    static SENTENCE_PIECE: LazyLock<Value> = LazyLock::new(|| {
        let bpe = BPE::builder().unk_token("<unk>".into()).fuse_unk(true).build().expect("a model");
        let special = vec![AddedToken::from("<unk>", true)];
        let trainer = BpeTrainer::builder().vocab_size(500).special_tokens(special).show_progress(false).build();
        trained(Tokenizer::new(bpe), Metaspace::new('▁', PrependScheme::Always, true), trainer.into())
    });

    static UNIGRAM: LazyLock<Value> = LazyLock::new(|| {
        let special = vec![AddedToken::from("<unk>", true)];
        let mut trainer = UnigramTrainer::builder();
        trainer.vocab_size(400).special_tokens(special).unk_token(Some("<unk>".into())).show_progress(false);
        let trainer = trainer.build().expect("a trainer");
        trained(Tokenizer::new(Unigram::default()), Metaspace::new('▁', PrependScheme::Always, true), trainer.into())
    });

    /// With these parts, and added tokens of all kinds: their contents, and which of `lstrip`, `rstrip`, `single_word` holds.
    fn tokenizer(trained: &Value, parts: Value, added: &[(&str, &str)]) -> TextTokenizer {
        let mut json = trained.clone();
        for (key, value) in parts.as_object().expect("an object") {
            json[key] = value.clone();
        }
        for (content, flag) in added {
            let mut token = json!({"id": 0, "content": content, "special": false, "lstrip": false, "rstrip": false,
                "single_word": false, "normalized": false});
            if !flag.is_empty() {
                token[flag] = json!(true);
            }
            // of Unigram it is a list
            let (size, id) = match &json["model"]["vocab"] {
                Value::Object(words) => (words.len(), words.get(*content).cloned()),
                Value::Array(words) => {
                    (words.len(), words.iter().position(|word| word[0] == *content).map(|id| json!(id)))
                }
                _ => (0, None),
            };
            let tokens = json["added_tokens"].as_array_mut().expect("a list");
            let above = tokens.iter().filter(|token| token["id"].as_u64() >= Some(size as u64)).count();
            token["id"] = id.unwrap_or_else(|| json!(size + above));
            tokens.push(token);
        }
        TextTokenizer::from_bytes(json.to_string().as_bytes()).expect("opens")
    }

    const PLAIN: [(&str, &str); 3] = [("<|im_start|>", ""), ("<|im_end|>", ""), ("<s>", "")];
    const OTHER: [(&str, &str); 8] = [
        ("<|im_end|>", ""),
        ("<pad>", "lstrip"),
        ("<s>", "rstrip"),
        ("[l]", "lstrip"),
        ("[r]", "rstrip"),
        ("word", "single_word"),
        ("model ", ""),
        (" of", "single_word"),
    ];

    fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
    }

    fn split(regex: &str, behavior: &str, invert: bool) -> Value {
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert})
    }

    fn sequence(parts: Vec<Value>) -> Value {
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}})
    }

    fn metaspace(prepend_scheme: &str, split: bool) -> Value {
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend_scheme, "split": split})
    }

    fn normalizers(parts: Vec<Value>) -> Value {
        json!({"type": "Sequence", "normalizers": parts})
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({"type": "Replace", "pattern": pattern, "content": content})
    }

    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const CL100K: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
    const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// Tokenizers whose texts are cut, by name.
    fn cuttable() -> Vec<(&'static str, TextTokenizer)> {
        let meta = |normalizer: Value, pre: Value| json!({"normalizer": normalizer, "pre_tokenizer": pre});
        let string = |text: &str| json!({"String": text});
        let legacy = || normalizers(vec![json!({"type": "Prepend", "prepend": "▁"}), replace(string(" "), "▁")]);
        let drops = || {
            let regex = |regex: &str| json!({"Regex": regex});
            let spaces = [replace(regex(" {2,}"), " "), replace(regex(r"[ ▁]+\z"), ""), replace(string(" "), "▁")];
            normalizers([&[json!({"type": "NFKC"})], &spaces[..]].concat())
        };
        let (bytes, pieces, unigram) = (&*BYTE_LEVEL, &*SENTENCE_PIECE, &*UNIGRAM);
        let gpt2 = json!({"pre_tokenizer": byte_level(false, true)});
        let prefixed = json!({"pre_tokenizer": byte_level(true, true)});
        let words = |regex: &str| sequence(vec![split(regex, "Isolated", false), byte_level(false, false)]);
        let inverse = sequence(vec![split(GPT2, "Removed", true), byte_level(true, false)]);
        let digits = sequence(vec![json!({"type": "Digits", "individual_digits": true}), byte_level(false, true)]);
        let deepseek = [split(r"\p{N}{1,3}", "Isolated", false), split("[一-龥぀-ゟ゠-ヿ]+", "Isolated", false)];
        let deepseek =
            sequence([&deepseek[..], &[split(DEEPSEEK, "Isolated", false), byte_level(false, false)]].concat());
        let composed = json!({"normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level(false, true)});
        vec![
            ("gpt2", tokenizer(bytes, gpt2.clone(), &[])),
            ("gpt2 with added tokens", tokenizer(bytes, gpt2.clone(), &PLAIN)),
            ("gpt2 with tokens that strip", tokenizer(bytes, gpt2, &OTHER)),
            ("gpt2 with a prefix space", tokenizer(bytes, prefixed.clone(), &PLAIN)),
            ("the same with tokens that strip", tokenizer(bytes, prefixed, &OTHER)),
            ("smollm", tokenizer(bytes, digits, &PLAIN)),
            ("llama3", tokenizer(bytes, words(LLAMA3), &OTHER)),
            ("cl100k", tokenizer(bytes, words(CL100K), &PLAIN)),
            ("o200k", tokenizer(bytes, words(O200K), &PLAIN)),
            ("deepseek", tokenizer(bytes, deepseek, &OTHER)),
            ("words that are not removed", tokenizer(bytes, inverse, &OTHER)),
            ("nfc", tokenizer(bytes, composed, &OTHER)),
            ("llama2", tokenizer(pieces, meta(legacy(), Value::Null), &PLAIN)),
            ("llama2 with tokens that strip", tokenizer(pieces, meta(legacy(), Value::Null), &OTHER)),
            ("no prefix", tokenizer(pieces, meta(replace(string(" "), "▁"), Value::Null), &OTHER)),
            ("metaspace at the first", tokenizer(pieces, meta(Value::Null, metaspace("first", false)), &OTHER)),
            ("metaspace always", tokenizer(pieces, meta(Value::Null, metaspace("always", false)), &OTHER)),
            ("metaspace split", tokenizer(pieces, meta(json!({"type": "NFC"}), metaspace("first", true)), &OTHER)),
            (
                "sentencepiece without spaces in a row",
                tokenizer(pieces, meta(drops(), metaspace("first", false)), &PLAIN),
            ),
            ("unigram", tokenizer(unigram, json!({}), &PLAIN)),
            ("unigram with tokens that strip", tokenizer(unigram, meta(drops(), metaspace("first", true)), &OTHER)),
            ("unigram, never", tokenizer(unigram, meta(json!({"type": "NFD"}), metaspace("never", true)), &OTHER)),
            (
                "gemma",
                tokenizer(
                    pieces,
                    {
                        let spaces = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
                        meta(replace(string(" "), "▁"), spaces)
                    },
                    &OTHER,
                ),
            ),
        ]
    }

    #[test]
    fn words_one_by_one_have_the_ids_of_the_whole_text() {
        for (name, tokenizer) in cuttable() {
            assert!(tokenizer.known_words().is_some(), "{name}");
            let mut rng = seeds::derive(1, "test", 1, name);
            for _ in 0..1500 {
                let text = text(&mut rng);
                let expected = tokenizer.encode_whole(&text).expect("encodes");
                assert_eq!(tokenizer.encode_part(&text).expect("encodes"), expected, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn a_tokenizer_that_may_look_across_spaces_encodes_whole_texts() {
        let mut crossing = SENTENCE_PIECE.clone();
        let words = crossing["model"]["vocab"].as_object_mut().expect("a vocabulary");
        words.insert("e▁t".into(), json!(words.len()));
        let mut whole = SENTENCE_PIECE.clone();
        whole["model"]["ignore_merges"] = json!(true);
        let unsplit = || json!({"pre_tokenizer": metaspace("first", false)});
        let regex = |regex: &str| json!({"pre_tokenizer": split(regex, "Isolated", false)});
        let lower = json!({"normalizer": {"type": "Lowercase"}, "pre_tokenizer": byte_level(false, true)});
        let normalized = json!({"normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level(false, true)});
        for (name, tokenizer) in [
            ("a token with a space within", tokenizer(&crossing, unsplit(), &[])),
            ("whole texts in the vocabulary", tokenizer(&whole, unsplit(), &[])),
            ("no words", tokenizer(&UNIGRAM, unsplit(), &[])),
            ("no words, but bytes", tokenizer(&BYTE_LEVEL, json!({"pre_tokenizer": byte_level(false, false)}), &[])),
            ("an unknown alternative", tokenizer(&BYTE_LEVEL, regex(r"\p{L}+ \p{L}+|\s+"), &[])),
            ("spaces in no match", tokenizer(&BYTE_LEVEL, regex(r" ?\p{L}+|\s*[\r\n]+"), &[])),
            (
                "words with what follows",
                tokenizer(&BYTE_LEVEL, json!({"pre_tokenizer": split(GPT2, "MergedWithNext", false)}), &[]),
            ),
            ("an unknown normalizer", tokenizer(&BYTE_LEVEL, lower, &[])),
            ("tokens in the normalized text", tokenizer(&BYTE_LEVEL, normalized, &[("word", "normalized")])),
        ] {
            assert!(tokenizer.known_words().is_none(), "{name}");
        }
    }

    #[test]
    fn few_words_are_kept_of_many() {
        let tokenizer = tokenizer(&BYTE_LEVEL, json!({"pre_tokenizer": byte_level(false, true)}), &[]);
        let text: String = (0..MAX_WORDS + 10).map(|number| format!("w {number}")).collect();
        let expected = tokenizer.encode_whole(&text).expect("encodes");
        assert_eq!(tokenizer.encode_part(&text).expect("encodes"), expected);
        assert!((1..=MAX_WORDS).contains(&tokenizer.known_words().expect("cut into words")));
    }
}
