//! The names that a tokenizer's settings give to tokens: what a chat template reads as `bos_token`.

use crate::Result;
use crate::config_reader::{ConfigReader, optional_settings};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The text of each special token that the settings of a directory name; `None` of those that they say there are none of.
/// Additional special tokens have no name that a template could read (transformers 5).
/// `special_tokens_map.json` is read where `tokenizer_config.json` does not list the added tokens, as transformers does. A GGUF
/// file names none.
///
/// # Errors
/// Settings that cannot be read; a token that is neither text nor an object with its `content`.
pub fn named_special_tokens(folder: &Path) -> Result<BTreeMap<String, Option<String>>> {
    let settings = optional_settings(folder.join("tokenizer_config.json"))?;
    let mut tokens = named(&settings)?;
    if settings.json["added_tokens_decoder"].is_null() {
        tokens.extend(named(&optional_settings(folder.join("special_tokens_map.json"))?)?);
    }
    Ok(tokens)
}

fn named(settings: &ConfigReader) -> Result<BTreeMap<String, Option<String>>> {
    let mut tokens = BTreeMap::new();
    for name in NAMES {
        let Some(token) = settings.json.get(name) else { continue };
        let text = match token {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            Value::Object(token) => token.get("content").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        if text.is_none() && !token.is_null() {
            return Err(settings.unsupported(name, "text, or an object with its `content`"));
        }
        tokens.insert(name.to_owned(), text);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_tokens_are_read_as_transformers_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        let read = || named_special_tokens(folder.path());
        assert_eq!(read().expect("nothing").len(), 0);
        write("tokenizer_config.json", r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null}"#);
        write("special_tokens_map.json", r#"{"eos_token": "<end>", "mask_token": "<m>", "other": 1}"#);
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            ("bos_token", text("<s>")),
            ("eos_token", text("<end>")),
            ("mask_token", text("<m>")),
            ("pad_token", None),
        ];
        assert_eq!(read().expect("both"), expected.map(|(name, token)| (name.to_owned(), token)).into());
        write("tokenizer_config.json", r#"{"eos_token": "</s>", "added_tokens_decoder": {}}"#);
        assert_eq!(read().expect("one"), [("eos_token".to_owned(), text("</s>"))].into());
        write("tokenizer_config.json", r#"{"eos_token": 7}"#);
        let error = read().expect_err("a number").to_string();
        assert!(error.contains("eos_token") && error.contains('7'), "{error}");
    }
}
