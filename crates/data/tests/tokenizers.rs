//! `tokenizer.json` as the library reads it: whatever its bytes, it is refused by a word or turns text into ids and back.

#![allow(clippy::unwrap_used)]

use duel_data::TextTokenizer;
use duel_testing::mutated;
use serde_json::{Value, json};

fn bytes(model: Value, other: Value) -> Vec<u8> {
    let added = |id: u32, text: &str| json!({"id": id, "content": text, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let mut file = json!({"version": "1.0", "added_tokens": [added(0, "<s>"), added(1, "</s>")], "model": model});
    for (key, value) in other.as_object().unwrap() {
        file[key] = value.clone();
    }
    file.to_string().into_bytes()
}

/// One file of each kind of model, with the parts that are usual beside it.
fn whole() -> Vec<Vec<u8>> {
    let words = json!({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ab": 4, "▁": 5, "<0x41>": 6, "<unk>": 7});
    let bpe = json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": words, "merges": [["a", "b"]]});
    let piece = json!({"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": words});
    let unigram = json!({"type": "Unigram", "unk_id": 2, "byte_fallback": false,
        "vocab": [["<s>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5]]});
    let level = json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": words});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": false},
        {"type": "Digits", "individual_digits": true}, byte_level]});
    let template = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
    let normalizer = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, {"type": "NFC"}, {"type": "Lowercase"}]});
    let decoder = json!({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    let precompiled = json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="});
    let limits = json!({"padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<s>"}, "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
        "stride": 0}, "post_processor": template});
    vec![
        bytes(bpe.clone(), json!({"pre_tokenizer": split, "decoder": byte_level, "post_processor": template})),
        bytes(bpe, json!({"normalizer": normalizer, "decoder": decoder})),
        bytes(
            piece,
            json!({"pre_tokenizer": {"type": "BertPreTokenizer"}, "normalizer": {"type": "BertNormalizer",
            "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}}),
        ),
        bytes(
            unigram,
            json!({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
            "split": true}, "normalizer": precompiled}),
        ),
        bytes(level, limits),
    ]
}

const WORDS: [&str; 18] = [
    "\"type\"",
    "\"BPE\"",
    "\"Unigram\"",
    "\"Replace\"",
    "\"Regex\"",
    "(a*)*b",
    "null",
    "\"Sequence\"",
    "\"merges\"",
    "\"vocab\"",
    "\"pattern\"",
    "[]",
    "{}",
    "\"Fixed\"",
    "\"stride\"",
    "\"unk_id\"",
    "\"dropout\"",
    "\"content\"",
];

/// Reads a file as far as it goes.
fn try_all(json: &[u8]) {
    let Ok(tokenizer) = TextTokenizer::from_bytes(json) else { return };
    let texts = ["", "a", "ab ab 12 <s>café\u{301} ▁ A\n\n  b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];
    let _ = (tokenizer.vocabulary(), tokenizer.controls(), tokenizer.token(0), tokenizer.token(u32::MAX));
    let _ = tokenizer.encode(&texts);
    for text in texts {
        let _ = tokenizer.encode_start(text);
        if let Ok(ids) = tokenizer.encode_part(text) {
            let _ = tokenizer.decode(&ids);
        }
    }
    let _ = tokenizer.decode(&[0, 1, 2, 3, 1000, u32::MAX]);
}

#[test]
fn whole_tokenizers_are_read() {
    for (i, json) in whole().iter().enumerate() {
        let tokenizer = TextTokenizer::from_bytes(json).unwrap();
        let ids = tokenizer.encode_part("ab");
        // the library fails on an empty map of characters only when it is used
        assert!(i == 3 || !ids.unwrap().is_empty());
    }
}

#[test]
fn mutated_tokenizers_are_refused_or_read() {
    let files = whole();
    let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    mutated::every("tokenizer", 1500, &files, &WORDS, |_, bytes| try_all(bytes));
}
