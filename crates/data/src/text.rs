//! Text to ids and back.

use crate::word_boundaries::WordBoundaries;
use crate::{Error, Result};
use rayon::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use thread_local::ThreadLocal;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// Bytes of a text that one thread encodes.
pub(crate) const LONG_TEXT: usize = 1 << 17;
/// Words whose ids are remembered, on all threads together, and the bytes of the longest.
pub(crate) const MAX_WORDS: usize = 1 << 18;
const MAX_WORD_BYTES: usize = 48;

/// A tokenizer: text to ids and back.
#[derive(Debug, Clone)]
pub struct TextTokenizer {
    library: Arc<Tokenizer>,
    /// The special tokens before a text, where they are known without it.
    start: Option<Vec<u32>>,
    /// `None`: a text is encoded in one go.
    words: Option<Arc<KnownWords>>,
}

/// The ids of words.
type WordIds = HashMap<Box<str>, Box<[u32]>>;

/// The words seen so far, by each thread.
#[derive(Debug)]
struct KnownWords {
    boundaries: WordBoundaries,
    /// Of the letter before a piece.
    before: Vec<u32>,
    ids: ThreadLocal<RefCell<WordIds>>,
}

fn tokenizer_error(e: impl std::fmt::Display) -> Error {
    Error::Tokenizer { problem: e.to_string() }
}

/// Calls the library on an outside file; a panic becomes an error of the file.
fn fenced<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match duel_tables::catch_panic(work) {
        Some(done) => done.map_err(tokenizer_error),
        None => Err(tokenizer_error("its parts contradict each other")),
    }
}

/// Disables padding, truncation and BPE dropout, which a file may set.
fn without_padding_and_truncation(mut tokenizer: Tokenizer) -> tokenizers::Result<Tokenizer> {
    tokenizer.with_padding(None).with_truncation(None)?;
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        tokenizer.with_model(bpe);
    }
    Ok(tokenizer)
}

/// How many times longer replacements may make a text: lowercasing, accents and SentencePiece's spaces stay far below.
const MAX_GROWTH: f64 = 64.0;

/// How many times longer the replacements of a normalizer or decoder may make a text, in sequence.
fn growth_factor(part: &Value) -> f64 {
    let inner = ["normalizers", "decoders"].iter().filter_map(|key| part[*key].as_array()).flatten();
    let growth = match part["type"].as_str() {
        Some("Replace") => {
            // a regex may match a single byte, or the empty string between any two
            let length = part["pattern"]["String"].as_str().map_or(1, str::len).max(1);
            let put = part["content"].as_str().map_or(0, str::len);
            let extra = if part["pattern"]["String"].is_string() { 0.0 } else { 1.0 };
            (put as f64 / length as f64 + extra).max(1.0)
        }
        _ => 1.0,
    };
    inner.map(growth_factor).product::<f64>() * growth
}

/// The parts of a file that are checked before and after the library reads it.
#[derive(serde::Deserialize)]
struct TokenizerChecks {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<AddedVocabulary>,
}

#[derive(serde::Deserialize)]
struct AddedVocabulary {
    id: u32,
    content: String,
}

impl TokenizerChecks {
    /// Rejects a file whose replacements would make a short text use up all memory.
    fn check_growth(&self) -> Result<()> {
        for (name, part) in [("normalizer", &self.normalizer), ("decoder", &self.decoder)] {
            let times = growth_factor(part);
            if times > MAX_GROWTH {
                let problem =
                    format!("its {name} makes a text up to {times:.0} times longer; the limit is {MAX_GROWTH}");
                return Err(tokenizer_error(problem));
            }
        }
        Ok(())
    }

    /// Rejects a file whose added tokens have other ids than the library assigns: it numbers them after the model's.
    fn check_ids(&self, tokenizer: &Tokenizer) -> Result<()> {
        for AddedVocabulary { id, content } in &self.added_tokens {
            match tokenizer.token_to_id(content) {
                Some(loaded_id) if loaded_id == *id => {}
                loaded_id => {
                    let description = loaded_id.map_or("has none".into(), |loaded_id| format!("is {loaded_id}"));
                    let problem = format!(
                        "{content:?} has the id {id} in its file and {description} once loaded: ids must be consecutive"
                    );
                    return Err(tokenizer_error(problem));
                }
            }
        }
        Ok(())
    }
}

impl TextTokenizer {
    /// Trains byte-level BPE with `<pad>`, `<bos>`, `<eos>` as ids 0, 1, 2 on the texts.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, vocabulary: usize) -> Result<Self> {
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
        let mut trainer = TrainerWrapper::from(
            BpeTrainer::builder()
                .show_progress(false)
                .vocab_size(vocabulary)
                .min_frequency(2)
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .special_tokens(["<pad>", "<bos>", "<eos>"].iter().map(|t| AddedToken::from(*t, true)).collect())
                .build(),
        );
        tokenizer.train(&mut trainer, texts.map(str::to_owned)).map_err(tokenizer_error)?;
        Ok(Self::new(tokenizer))
    }

    fn new(library: Tokenizer) -> Self {
        let mut tokenizer = Self { library: Arc::new(library), start: None, words: None };
        // the first of these texts that has ids of its own
        tokenizer.start = ["a", "0", " "].iter().find_map(|text| tokenizer.start_before(text).ok().flatten());
        tokenizer.words = WordBoundaries::of(&tokenizer.library).and_then(|boundaries| {
            let before = tokenizer.encode_whole(boundaries.before().encode_utf8(&mut [0; 4])).ok()?;
            Some(Arc::new(KnownWords { boundaries, before, ids: ThreadLocal::new() }))
        });
        tokenizer
    }

    /// Writes `tokenizer.json`.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.library.save(path, false).map_err(tokenizer_error)
    }

    /// Reads `tokenizer.json`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_bytes(&std::fs::read(path).map_err(tokenizer_error)?)
    }

    /// From the content of `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`]: a file that the library rejects or panics on, or that would use up all memory.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        let parts: TokenizerChecks = serde_json::from_slice(json).map_err(tokenizer_error)?;
        parts.check_growth()?;
        let tokenizer = fenced(|| Tokenizer::from_bytes(json).and_then(without_padding_and_truncation))?;
        parts.check_ids(&tokenizer)?;
        Ok(Self::new(tokenizer))
    }

    /// Size of the vocabulary, special tokens included.
    pub fn vocabulary(&self) -> usize {
        self.library.get_vocab_size(true)
    }

    /// The ids of each text, without special tokens.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode_part(text)).collect()
    }

    /// The ids of one text, without special tokens. A text is cut into words where that changes no id, and the ids of words that
    /// were seen before are known. A long text is encoded on all threads.
    pub fn encode_part(&self, text: &str) -> Result<Vec<u32>> {
        let Some(words) = &self.words else { return self.encode_whole(text) };
        let sections = words.boundaries.sections(text, LONG_TEXT);
        let ids = match &*sections {
            [section] => self.encode_words(words, section, true)?,
            sections => {
                let encode = |(index, section): (usize, &&str)| self.encode_words(words, section, index == 0);
                let ids = sections.par_iter().enumerate().map(encode).collect::<Result<Vec<_>>>()?;
                ids.into_iter().collect::<Option<Vec<_>>>().map(|ids| ids.concat())
            }
        };
        ids.map_or_else(|| self.encode_whole(text), Ok)
    }

    /// The ids of one text word by word; `None` where a word turns out to depend on what precedes it.
    fn encode_words(&self, words: &KnownWords, text: &str, is_start: bool) -> Result<Option<Vec<u32>>> {
        let mut known = words.ids.get_or_default().borrow_mut();
        let mut pieces = words.boundaries.pieces(text);
        let start = if is_start { pieces.next() } else { None };
        let mut ids = start.map_or(Ok(vec![]), |start| self.encode_whole(start))?;
        for piece in pieces {
            if let Some(of_piece) = known.get(piece) {
                ids.extend(of_piece);
                continue;
            }
            let with_letter = self.encode_whole(&format!("{}{piece}", words.boundaries.before()))?;
            let Some(of_piece) = with_letter.strip_prefix(&*words.before) else { return Ok(None) };
            ids.extend(of_piece);
            if piece.len() <= MAX_WORD_BYTES {
                if known.len() >= MAX_WORDS / rayon::current_num_threads() {
                    known.clear();
                }
                known.insert(piece.into(), of_piece.into());
            }
        }
        Ok(Some(ids))
    }

    /// Words that this thread remembers; `None` where texts are not cut into words.
    #[cfg(test)]
    pub(crate) fn known_words(&self) -> Option<usize> {
        self.words.as_ref().map(|words| words.ids.get_or_default().borrow().len())
    }

    /// The ids of one text as the library finds them.
    pub(crate) fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        Ok(fenced(|| self.library.encode_fast(text, false))?.get_ids().to_vec())
    }

    /// The ids of a text that starts a sequence: with special tokens before it, such as BOS, unless the text itself begins with
    /// them, and without those after it, such as EOS, since the sequence continues.
    pub fn encode_start(&self, text: &str) -> Result<Vec<u32>> {
        let ids = self.encode_part(text)?;
        let start = self.start_of(text)?;
        Ok(if ids.starts_with(&start) { ids } else { [&*start, &*ids].concat() })
    }

    /// As [`Self::encode_start`], and the bytes of the text `[start, end)` that each id stands for; those of a special token before
    /// it are empty.
    pub fn encode_start_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<[usize; 2]>)> {
        let encoding = fenced(|| self.library.encode(text, false))?;
        let (ids, start) = (encoding.get_ids(), self.start_of(text)?);
        let start = if ids.starts_with(&start) { Cow::Borrowed(&[][..]) } else { start };
        let offsets = encoding.get_offsets().iter().map(|(start, end)| [*start, *end]);
        let offsets = std::iter::repeat_n([0, 0], start.len()).chain(offsets).collect();
        Ok(([&start, ids].concat(), offsets))
    }

    /// The special tokens before this text.
    fn start_of(&self, text: &str) -> Result<Cow<'_, [u32]>> {
        Ok(match &self.start {
            Some(start) => Cow::Borrowed(start),
            None => Cow::Owned(self.start_before(text)?.unwrap_or_default()),
        })
    }

    /// The special tokens that the tokenizer puts before a text; `None` for a text without ids of its own.
    fn start_before(&self, text: &str) -> Result<Option<Vec<u32>>> {
        let encoding = fenced(|| self.library.encode_fast(text, true))?;
        let added = encoding.get_special_tokens_mask();
        let start = encoding.get_ids().iter().zip(added).take_while(|(_, added)| **added == 1);
        Ok(added.contains(&0).then(|| start.map(|(id, _)| *id).collect()))
    }

    /// The ids of control tokens, sorted.
    pub fn controls(&self) -> Vec<u32> {
        let added = self.library.get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// The ids of all added tokens, sorted.
    pub fn added(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.library.get_added_tokens_decoder().into_keys().collect();
        ids.sort_unstable();
        ids
    }

    /// Whether an id is of a token added to the model's own vocabulary, which stands for itself in any text.
    pub fn is_added(&self, id: u32) -> bool {
        self.library.get_added_tokens_decoder().contains_key(&id)
    }

    /// The token of an id, special tokens included; `None` for an unknown id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.library.id_to_token(id)
    }

    /// The text of ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        fenced(|| self.library.decode(ids, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of three ids, with other settings.
    fn with(other: serde_json::Value) -> Result<TextTokenizer> {
        let mut json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [
                {"id": 0, "content": "<s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
                {"id": 1, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}
            ],
            "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2}, "merges": []}
        });
        for (key, value) in other.as_object().expect("an object") {
            json[key] = value.clone();
        }
        TextTokenizer::from_bytes(json.to_string().as_bytes())
    }

    #[test]
    fn a_file_neither_pads_nor_cuts_rows_nor_ends_what_is_still_to_be_written() {
        let padding = serde_json::json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
        let truncation =
            serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        let one = |token: &str| serde_json::json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = serde_json::json!({"Sequence": {"id": "A", "type_id": 0}});
        let ends = serde_json::json!({"type": "TemplateProcessing", "single": [one("<s>"), text, one("</s>")],
            "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {
                "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}});
        let tokenizer = with(serde_json::json!({"padding": padding, "truncation": truncation, "post_processor": ends}));
        let tokenizer = tokenizer.expect("opens");
        assert_eq!(tokenizer.encode(&["aaa", "a"]).expect("encodes"), [vec![2, 2, 2], vec![2]]);
        assert_eq!(tokenizer.encode_part("aaa").expect("encodes"), [2, 2, 2]);
        assert_eq!(tokenizer.encode_start("aaa").expect("encodes"), [0, 2, 2, 2]);
        assert_eq!(tokenizer.encode_start("").expect("encodes"), [0]);
    }

    #[test]
    fn replacements_that_would_fill_the_memory_are_refused() {
        let replace =
            |from: &str, to: &str| serde_json::json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let sequence = |key: &str, n: usize| {
            let all: Vec<_> = (0..n).map(|_| replace("a", "aa")).collect();
            let mut part = serde_json::json!({"type": "Sequence"});
            part[key] = serde_json::json!(all);
            part
        };
        for (key, inner) in [("normalizer", "normalizers"), ("decoder", "decoders")] {
            let mut file = serde_json::json!({});
            file[key] = sequence(inner, 40);
            let refused = with(file.clone()).expect_err("2^40 times").to_string();
            assert!(refused.contains(&format!("its {key} makes a text up to 1099511627776 times longer")), "{refused}");
            file[key] = sequence(inner, 3);
            with(file).expect("eight times");
        }
        let spaces = with(serde_json::json!({"normalizer": replace(" ", "▁")})).expect("SentencePiece's");
        assert_eq!(spaces.encode_part("a a").expect("encodes").len(), 2, "the space is not in the vocabulary");
    }

    #[test]
    fn added_tokens_keep_the_ids_of_their_file() {
        let token = |id: u32| {
            serde_json::json!({"id": id, "content": "<end>", "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
        };
        assert_eq!(
            with(serde_json::json!({"added_tokens": [token(3)]})).expect("follows").token(3).as_deref(),
            Some("<end>")
        );
        let refused = with(serde_json::json!({"added_tokens": [token(7)]})).expect_err("leaves a gap").to_string();
        assert!(refused.contains("\"<end>\" has the id 7 in its file and is 3 once loaded"), "{refused}");
    }

    #[test]
    fn merges_are_not_left_out_by_chance() {
        let model = serde_json::json!({"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "aa": 3}, "merges": [["a", "a"]],
            "dropout": 0.5});
        let tokenizer = with(serde_json::json!({"model": model})).expect("opens");
        let once = tokenizer.encode_part(&"a".repeat(64)).expect("encodes");
        assert_eq!(once, vec![3; 32]);
    }

    #[test]
    fn a_panic_of_the_library_is_an_error() {
        let failed = fenced(|| -> tokenizers::Result<()> { panic!("as it does on some files") });
        assert!(failed.expect_err("fenced").to_string().contains("contradict each other"));
    }

    #[test]
    fn the_tokenizer_goes_there_and_back() {
        let texts = ["a very good film, a very bad film", "the film was very very good", "café naïve film"];
        let tokenizer = TextTokenizer::train(texts.iter().copied(), 300).expect("trains");
        for text in texts {
            let ids = tokenizer.encode(&[text]).expect("encodes").remove(0);
            assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
            assert!(ids.iter().all(|&id| id > 2 && (id as usize) < tokenizer.vocabulary()));
        }
    }
}
