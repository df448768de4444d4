//! Tokenizers of directories without `tokenizer.json`: `tokenizer.model`, or `vocab.json` with `merges.txt`; as
//! `tokenizer.json` describes them, with the settings of the class that the directory names, as in transformers.

use crate::config_reader::{ConfigReader, parse, read_optional};
use crate::post_processor;
use crate::sentencepiece::{DummyPrefix, SentencePiece};
use crate::{Error, Result, added_tokens};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const SENTENCEPIECE: &str = "tokenizer.model";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
/// Files of tokenizers that are not read.
const OTHERS: [&str; 6] =
    ["tekken.json", "tiktoken.model", "qwen.tiktoken", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"];
/// The setting that names a class of transformers.
const CLASS: &str = "tokenizer_class";

/// Classes whose pieces have the ids of their file.
const SENTENCEPIECE_CLASSES: [&str; 8] = [
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
    "MistralTokenizer",
    "T5Tokenizer",
    "PreTrainedTokenizer",
    "TokenizersBackend",
    "SentencePieceBackend",
];
/// Classes of byte-level BPE.
const BYTE_LEVEL_CLASSES: [&str; 6] = [
    "GPT2Tokenizer",
    "Qwen2Tokenizer",
    "GPTNeoXTokenizer",
    "CodeGenTokenizer",
    "PreTrainedTokenizer",
    "TokenizersBackend",
];
/// Control tokens that Gemma's file holds as words of a user.
const GEMMA_CONTROLS: [&str; 2] = ["<start_of_turn>", "<end_of_turn>"];
/// Qwen2's way of cutting text.
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer of a directory that has no `tokenizer.json`, with the file it comes from; names of special tokens that the
/// settings lack are filled in.
///
/// # Errors
/// A class that reads its files in another way; one file of two.
pub(crate) fn read(folder: &Path, settings: &mut ConfigReader, model_type: &Value) -> Result<Option<(PathBuf, Value)>> {
    let path = folder.join(SENTENCEPIECE);
    if let Some(bytes) = read_optional(&path)? {
        let tokenizer = read_sentencepiece(&path, &bytes, settings, model_type)?;
        return Ok(Some((path, tokenizer)));
    }
    let [vocabulary, merges] = [VOCABULARY, MERGES].map(|name| folder.join(name));
    let lacks = |key: &str, other: &str| Error::Unsupported {
        path: folder.into(),
        key: key.into(),
        found: format!("nothing, beside `{other}`"),
        accepted: format!("`{key}` beside `{other}`, or `tokenizer.json`"),
    };
    match (read_optional(&vocabulary)?, read_optional(&merges)?) {
        (Some(words), Some(pairs)) => {
            let tokens = parse(&vocabulary, &words)?;
            if !tokens.is_object() {
                return Err(Error::Damaged {
                    path: vocabulary,
                    problem: "it is not an object of tokens and ids".into(),
                });
            }
            let pairs = read_merges(&pairs).map_err(|problem| Error::Damaged { path: merges, problem })?;
            let tokenizer = byte_level(tokens, &pairs, settings, model_type)?;
            Ok(Some((vocabulary, tokenizer)))
        }
        (Some(_), None) => Err(lacks(MERGES, VOCABULARY)),
        (None, Some(_)) => Err(lacks(VOCABULARY, MERGES)),
        (None, None) => match OTHERS.into_iter().find(|name| folder.join(name).exists()) {
            Some(other) => Err(Error::Unsupported {
                path: folder.into(),
                key: "tokenizer.json".into(),
                found: format!("nothing, beside `{other}`"),
                accepted: format!(
                    "`tokenizer.json`, which transformers' `AutoTokenizer` and `save_pretrained` write; `{SENTENCEPIECE}`; or \
                     `{VOCABULARY}` with `{MERGES}`"
                ),
            }),
            None => Ok(None),
        },
    }
}

/// The class that a directory names, without the `Fast` of some; checked to be one of those accepted.
fn class(settings: &ConfigReader, accepted: &[&str]) -> Result<Option<String>> {
    match &settings.json[CLASS] {
        Value::Null => Ok(None),
        Value::String(name) if accepted.contains(&name.trim_end_matches("Fast")) => {
            Ok(Some(name.trim_end_matches("Fast").to_owned()))
        }
        _ => Err(settings.unsupported(CLASS, &format!("{}; or a `tokenizer.json`", accepted.join(", ")))),
    }
}

/// Names a special token where the settings do not.
fn name_token(settings: &mut ConfigReader, key: &str, content: &str) {
    if settings.json[key].is_null() {
        settings.json[key] = json!(content);
    }
}

/// Puts BOS before a text where the settings ask for it.
fn add_bos(tokenizer: &mut Value, settings: &ConfigReader, default: bool) -> Result<()> {
    let ids = added_tokens::ids(&settings.path, tokenizer)?;
    let bos = added_tokens::content(&settings.json["bos_token"]);
    let bos = bos.and_then(|bos| Some((bos, *ids.get(bos)?)));
    if let (true, Some((bos, id))) = (settings.flag_or("add_bos_token", default)?, bos) {
        let post_processor = post_processor::around(Some((id, bos)), None);
        tokenizer["post_processor"] = post_processor;
    }
    Ok(())
}

fn read_sentencepiece(path: &Path, bytes: &[u8], settings: &mut ConfigReader, model_type: &Value) -> Result<Value> {
    if bytes.is_empty() {
        return Err(Error::Damaged { path: path.into(), problem: "it is empty".into() });
    }
    // the ranks of tiktoken bear the same name: in every line base64 and a number
    if bytes.iter().take(1 << 10).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return Err(Error::Unsupported {
            path: path.into(),
            key: SENTENCEPIECE.into(),
            found: "text, such as tiktoken's ranks".into(),
            accepted: "a SentencePiece model; or a `tokenizer.json`, which transformers writes from it".into(),
        });
    }
    let class = class(settings, &SENTENCEPIECE_CLASSES)?;
    let mut model = SentencePiece::read(path, bytes)?;
    if !settings.flag_or("add_prefix_space", true)? {
        model.prefix = DummyPrefix::Never;
    } else if model.prefix == DummyPrefix::Always && !settings.flag_or("legacy", true)? {
        model.prefix = DummyPrefix::First;
    }
    let names =
        [("unk_token", Some(model.unk)), ("bos_token", model.bos), ("eos_token", model.eos), ("pad_token", model.pad)];
    for (key, id) in names.into_iter().filter_map(|(key, id)| Some((key, id?))) {
        name_token(settings, key, model.text(id));
    }
    let is_gemma = class.as_deref() == Some("GemmaTokenizer")
        || class.is_none() && model_type.as_str().is_some_and(|name| name.starts_with("gemma"));
    let mut tokenizer = model.to_tokenizer(path, |piece| is_gemma && GEMMA_CONTROLS.contains(&piece))?;
    let starts = !matches!(class.as_deref(), Some("T5Tokenizer" | "PreTrainedTokenizer" | "TokenizersBackend"));
    add_bos(&mut tokenizer, settings, starts)?;
    Ok(tokenizer)
}

/// The pairs of `merges.txt`, the first of which is merged first.
fn read_merges(bytes: &[u8]) -> std::result::Result<Vec<[&str; 2]>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    let pairs = lines.map(|(index, line)| {
        let pair =
            line.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '));
        pair.map(|(left, right)| [left, right])
            .ok_or_else(|| format!("line {}: {line:?} is not a pair of tokens", index + 1))
    });
    pairs.collect()
}

/// Byte-level BPE of GPT-2 and those after it.
fn byte_level(tokens: Value, merges: &[[&str; 2]], settings: &mut ConfigReader, model_type: &Value) -> Result<Value> {
    let class = class(settings, &BYTE_LEVEL_CLASSES)?;
    // where no class is named, transformers takes the family's
    let class = class.as_deref().unwrap_or(match model_type.as_str() {
        Some(name) if name.starts_with("qwen") => "Qwen2Tokenizer",
        Some("gpt_neox" | "olmo" | "olmo2" | "stablelm") => "GPTNeoXTokenizer",
        _ => "GPT2Tokenizer",
    });
    let add_prefix_space = settings.flag_or("add_prefix_space", false)?;
    let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex});
    let pre_tokenizer = match class {
        "Qwen2Tokenizer" => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": false}, bytes(false)]}),
        _ => bytes(true),
    };
    let is_composed = matches!(class, "Qwen2Tokenizer" | "GPTNeoXTokenizer");
    let normalizer = if is_composed { json!({"type": "NFC"}) } else { Value::Null };
    const END: &str = "<|endoftext|>";
    if !tokens[END].is_null() {
        let names: &[&str] =
            if class == "Qwen2Tokenizer" { &["eos_token", "pad_token"] } else { &["bos_token", "eos_token"] };
        names.iter().for_each(|key| name_token(settings, key, END));
    }
    let mut tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": tokens, "merges": merges
        }
    });
    add_bos(&mut tokenizer, settings, false)?;
    Ok(tokenizer)
}
