//! Byte-level BPE as GGUF files hold it, from and to `tokenizer.json`.

use crate::header_reader::HeaderReader;
use crate::post_processor::begins_with;
use crate::tokenizer_files::{SpecialTokens, check_ids};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Most tokens and merges: far more than any tokenizer has.
const MOST_MERGES: usize = 1 << 22;

/// The tokenizer as `tokenizer.json` has it, for an embedding of so many rows.
pub(crate) fn read_tokenizer(
    settings: &HeaderReader<'_>,
    rows: usize,
    special: &SpecialTokens,
) -> Result<Option<Vec<u8>>> {
    let key = "tokenizer.ggml.model";
    match settings.text(key) {
        Some("gpt2") => {}
        None if settings.value(key).is_none() => return Ok(None),
        _ => return Err(settings.unsupported(key, "\"gpt2\", which is byte-level BPE")),
    }
    let key = "tokenizer.ggml.tokens";
    let tokens = settings.texts(key, MOST_MERGES)?;
    check_ids(settings.path, rows, (0..).zip(tokens.iter().copied()))?;
    let merges = settings.texts("tokenizer.ggml.merges", MOST_MERGES)?;
    let kinds = token_kinds(settings, tokens.len())?;
    let (names, pre_tokenizer) = pre_tokenizer(settings)?;
    // llama.cpp takes Llama 3's words whole where the vocabulary has them, and begins its texts with BOS
    let is_llama3 = names.contains(&LLAMA3);
    let starts = settings.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(is_llama3);
    let post_processor = match special.bos {
        Some(bos) if starts => begins_with(tokens.get(bos as usize).copied().unwrap_or_default(), bos),
        _ => Value::Null,
    };
    let mut vocabulary = serde_json::Map::new();
    let mut added = vec![];
    for (id, token) in tokens.iter().enumerate() {
        if vocabulary.insert((*token).to_owned(), json!(id)).is_some() {
            let problem = format!("its tokenizer has {token:?} twice");
            return Err(Error::Damaged { path: settings.path.into(), problem });
        }
        // 3: control, 4: written by hand
        if let Some(kind @ (3 | 4)) = kinds.get(id) {
            added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": *kind == 3}));
        }
    }
    let merges: Vec<[&str; 2]> = merges
        .iter()
        .map(|merge| merge.split_once(' ').map(|(a, b)| [a, b]))
        .collect::<Option<_>>()
        .ok_or_else(|| settings.unsupported("tokenizer.ggml.merges", "pairs with a space between them"))?;
    let pre_tokenizer: Value = serde_json::from_str(pre_tokenizer).expect("written below");
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": is_llama3,
            "vocab": vocabulary, "merges": merges
        }
    });
    Ok(Some(json.to_string().into_bytes()))
}

/// The kind of each token; an empty list where the file says none.
fn token_kinds(settings: &HeaderReader<'_>, tokens: usize) -> Result<Vec<i128>> {
    let key = "tokenizer.ggml.token_type";
    if settings.value(key).is_none() {
        return Ok(vec![]);
    }
    let kinds = settings.header.as_ints(key, settings.bytes).filter(|kinds| kinds.len() == tokens);
    kinds.ok_or_else(|| settings.unsupported(key, &format!("{tokens} numbers, one for each token")))
}

/// The pre-tokenizer that the file names: all its names, and how `tokenizer.json` describes it.
fn pre_tokenizer(settings: &HeaderReader<'_>) -> Result<PreTokenizer> {
    let key = "tokenizer.ggml.pre";
    let name = match settings.text(key) {
        Some(name) => name,
        None if settings.value(key).is_none() => "default",
        None => return Err(settings.unsupported(key, "a name")),
    };
    PRE_TOKENIZERS.into_iter().find(|(names, _)| names.contains(&name)).ok_or_else(|| {
        let names: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        settings.unsupported(key, &names.join(", "))
    })
}

/// Llama 3's own name among those of its way of cutting.
const LLAMA3: &str = "llama-bpe";

/// Names in GGUF files, and the description in `tokenizer.json`.
type PreTokenizer = (&'static [&'static str], &'static str);

/// How text is cut before BPE, by the names that GGUF gives, as `tokenizer.json` says it.
const PRE_TOKENIZERS: [PreTokenizer; 4] = [
    (
        &["gpt-2", "default", "phi-2"],
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#,
    ),
    (
        &["smollm"],
        r#"{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]}"#,
    ),
    (
        &["llama-bpe", "llama3", "llama-v3"],
        r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}"#,
    ),
    (
        &["qwen2"],
        r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}"#,
    ),
];

/// A `tokenizer.json` as GGUF says it.
pub(crate) struct Vocabulary {
    /// Each with its kind: 1 a word, 3 control, 4 written by hand.
    pub tokens: Vec<(String, i32)>,
    pub merges: Vec<String>,
    pub pre: &'static str,
    /// Whether a text begins with BOS.
    pub starts: bool,
}

/// Turns a `tokenizer.json` into what GGUF holds.
///
/// # Errors
/// A tokenizer for which GGUF has no name.
pub(crate) fn to_vocabulary(path: &Path, bytes: &[u8]) -> Result<Vocabulary> {
    let unsupported = |key: &str, found: String, accepted: &str| Error::Unsupported {
        path: path.into(),
        key: key.into(),
        found,
        accepted: accepted.into(),
    };
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::Damaged { path: path.into(), problem: format!("its tokenizer: {e}") })?;
    let model = &json["model"];
    let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Err(unsupported("tokenizer.json model", model["type"].to_string(), "byte-level BPE"));
    };
    let pre = PRE_TOKENIZERS.iter().find(|(_, known)| {
        let known: Value = serde_json::from_str(known).expect("written above");
        simplify_pre_tokenizer(&known) == simplify_pre_tokenizer(&json["pre_tokenizer"])
    });
    let Some((names, _)) = pre else {
        let found = json["pre_tokenizer"].to_string();
        return Err(unsupported(
            "tokenizer.json pre_tokenizer",
            found,
            "one that GGUF has a name for: gpt-2, smollm, llama-bpe, qwen2",
        ));
    };
    if model["ignore_merges"] == json!(true) && !names.contains(&LLAMA3) {
        let accepted = "false: GGUF takes words whole with Llama 3's pre-tokenizer alone";
        return Err(unsupported("tokenizer.json ignore_merges", "true".into(), accepted));
    }
    let mut tokens: BTreeMap<u64, (String, i32)> = BTreeMap::new();
    for (token, id) in vocabulary {
        tokens.insert(id.as_u64().unwrap_or(u64::MAX), (token.clone(), 1));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == json!(true) { 3 } else { 4 };
        let content = token["content"].as_str().unwrap_or_default().to_owned();
        tokens.insert(token["id"].as_u64().unwrap_or(u64::MAX), (content, kind));
    }
    if tokens.keys().zip(0..).any(|(id, expected)| *id != expected) {
        return Err(unsupported("tokenizer.json ids", "ids with gaps".into(), "ids from 0 on, one after another"));
    }
    let merge = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    };
    let merges = merges.iter().map(merge).collect::<Option<Vec<_>>>();
    let merges = merges.ok_or_else(|| unsupported("tokenizer.json merges", "something else".into(), "pairs"))?;
    Ok(Vocabulary {
        tokens: tokens.into_values().collect(),
        merges,
        pre: names[0],
        starts: starts_with_token(&json["post_processor"]),
    })
}

/// Whether a post-processor puts a token before a text, itself or within a sequence of them.
fn starts_with_token(post: &Value) -> bool {
    let within = post["processors"].as_array().into_iter().flatten();
    post["single"][0]["SpecialToken"].is_object()
        || within.into_iter().any(|one| one["single"][0]["SpecialToken"].is_object())
}

/// A pre-tokenizer without what does not change the tokens.
fn simplify_pre_tokenizer(pre: &Value) -> Value {
    let mut pre = pre.clone();
    if let Some(list) = pre["pretokenizers"].as_array_mut() {
        list.iter_mut().for_each(|one| *one = simplify_pre_tokenizer(one));
    }
    if let Some(map) = pre.as_object_mut() {
        map.remove("trim_offsets");
    }
    pre
}
