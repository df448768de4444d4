//! Against the library, on random texts of what tokenizers treat in their own ways.

use crate::TextTokenizer;
use crate::text::{LONG_TEXT, MAX_WORDS};
use duel_spec::seeds::{self, Rng};
use rand::RngExt;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};
use std::sync::LazyLock;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::normalizers::{NFC, NFD, NFKC, NFKD, NormalizerWrapper};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, NormalizedString, Normalizer, PreTokenizerWrapper, Tokenizer};

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
    let trainer = BpeTrainer::builder().vocab_size(500).initial_alphabet(ByteLevel::alphabet().into_iter().collect());
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
            Value::Array(words) => (words.len(), words.iter().position(|word| word[0] == *content).map(|id| json!(id))),
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
const CL100K: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Tokenizers whose texts are cut, by name.
fn cuttable() -> Vec<(&'static str, TextTokenizer)> {
    let meta = |normalizer: Value, pre: Value| json!({"normalizer": normalizer, "pre_tokenizer": pre});
    let string = |text: &str| json!({"String": text});
    let legacy = || normalizers(vec![json!({"type": "Prepend", "prepend": "▁"}), replace(string(" "), "▁")]);
    let drops = |ends: &str| {
        let regex = |regex: &str| json!({"Regex": regex});
        let spaces = [replace(regex(" {2,}"), " "), replace(regex(ends), ""), replace(string(" "), "▁")];
        normalizers([&[json!({"type": "NFKC"})], &spaces[..]].concat())
    };
    let (bytes, pieces, unigram) = (&*BYTE_LEVEL, &*SENTENCE_PIECE, &*UNIGRAM);
    let gpt2 = json!({"pre_tokenizer": byte_level(false, true)});
    let prefixed = json!({"pre_tokenizer": byte_level(true, true)});
    let words = |regex: &str| sequence(vec![split(regex, "Isolated", false), byte_level(false, false)]);
    let inverse = sequence(vec![split(GPT2, "Removed", true), byte_level(true, false)]);
    let digits = sequence(vec![json!({"type": "Digits", "individual_digits": true}), byte_level(false, true)]);
    let deepseek = [split(r"\p{N}{1,3}", "Isolated", false), split("[一-龥぀-ゟ゠-ヿ]+", "Isolated", false)];
    let deepseek = sequence([&deepseek[..], &[split(DEEPSEEK, "Isolated", false), byte_level(false, false)]].concat());
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
        ("tekken", tokenizer(bytes, words(TEKKEN), &PLAIN)),
        ("qwen", tokenizer(bytes, words(QWEN), &OTHER)),
        ("deepseek", tokenizer(bytes, deepseek, &OTHER)),
        ("words that are not removed", tokenizer(bytes, inverse, &OTHER)),
        ("nfc", tokenizer(bytes, composed, &OTHER)),
        ("llama2", tokenizer(pieces, meta(legacy(), Value::Null), &PLAIN)),
        ("llama2 with tokens that strip", tokenizer(pieces, meta(legacy(), Value::Null), &OTHER)),
        ("no prefix", tokenizer(pieces, meta(replace(string(" "), "▁"), Value::Null), &OTHER)),
        ("metaspace at the first", tokenizer(pieces, meta(Value::Null, metaspace("first", false)), &OTHER)),
        ("metaspace always", tokenizer(pieces, meta(Value::Null, metaspace("always", false)), &OTHER)),
        ("metaspace split", tokenizer(pieces, meta(json!({"type": "NFC"}), metaspace("first", true)), &OTHER)),
        ("sentencepiece without spaces in a row", tokenizer(pieces, meta(drops(r"\A |[ ▁]+\z"), Value::Null), &PLAIN)),
        ("unigram", tokenizer(unigram, json!({}), &PLAIN)),
        (
            "unigram with tokens that strip",
            tokenizer(unigram, meta(drops(r"[ ▁]+\z"), metaspace("first", true)), &OTHER),
        ),
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

/// So that what ends a word before it is normalized ends one after it.
#[test]
fn no_form_of_unicode_ends_a_character_with_a_space() {
    let forms: [NormalizerWrapper; 4] = [NFC.into(), NFD.into(), NFKC.into(), NFKD.into()];
    for c in ('\0'..=char::MAX).filter(|c| !c.is_ascii() && !c.is_whitespace() && *c != '▁') {
        for form in &forms {
            let mut text = NormalizedString::from(c.to_string());
            form.normalize(&mut text).expect("normalizes");
            assert!(!text.get().ends_with(|last: char| last.is_whitespace() || last == '▁'), "{c:?} in {form:?}");
        }
    }
}

#[test]
fn a_tokenizer_that_may_look_across_spaces_encodes_whole_texts() {
    let mut crossing = SENTENCE_PIECE.clone();
    let words = crossing["model"]["vocab"].as_object_mut().expect("a vocabulary");
    words.insert("e▁t".into(), json!(words.len()));
    let mut ignoring_merges = SENTENCE_PIECE.clone();
    ignoring_merges["model"]["ignore_merges"] = json!(true);
    let unsplit = || json!({"pre_tokenizer": metaspace("first", false)});
    let regex = |regex: &str| json!({"pre_tokenizer": split(regex, "Isolated", false)});
    let lower = json!({"normalizer": {"type": "Lowercase"}, "pre_tokenizer": byte_level(false, true)});
    let normalized = json!({"normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level(false, true)});
    for (name, tokenizer) in [
        ("a token with a space within", tokenizer(&crossing, unsplit(), &[])),
        ("whole texts in the vocabulary", tokenizer(&ignoring_merges, unsplit(), &[])),
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
fn a_long_text_is_encoded_in_sections() {
    let tokenizer = tokenizer(&SENTENCE_PIECE, json!({"pre_tokenizer": metaspace("first", false)}), &PLAIN);
    let mut rng = seeds::derive(1, "test", 2, "long");
    let words: String = (0..LONG_TEXT).map(|_| text(&mut rng)).take(LONG_TEXT / 20).collect();
    let long = words + "<|im_end|>" + &"x".repeat(LONG_TEXT);
    assert!(long.len() > 3 * LONG_TEXT);
    assert_eq!(tokenizer.encode_part(&long).expect("encodes"), tokenizer.encode_whole(&long).expect("encodes"));
}

#[test]
fn few_words_are_kept_of_many() {
    let tokenizer = tokenizer(&BYTE_LEVEL, json!({"pre_tokenizer": byte_level(false, true)}), &[]);
    let most = MAX_WORDS / rayon::current_num_threads();
    for first in (0..most + 2000).step_by(1000) {
        let text: String = (first..first + 1000).map(|number| format!("w {number}")).collect();
        assert_eq!(tokenizer.encode_part(&text).expect("encodes"), tokenizer.encode_whole(&text).expect("encodes"));
    }
    assert!((1..=3000).contains(&tokenizer.known_words().expect("cut into words")), "cleared once");
}
